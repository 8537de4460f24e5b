"""What the pictures have in common: colours, and where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsekit.bench.pictures.selection import Measured

COLORS = ("#1b7f5c", "#2563a8", "#8a4fa3", "#c77c02", "#4a8f9c", "#7a6a3a")
"""Of patterns, in the order in which they were measured."""
DENSE, PEER, ROUNDED = "0.25", "0.55", "#b3364b"
DPI = 150


def color_of(pattern: str, patterns: Sequence[str]) -> str:
    """The colour of ``pattern`` among all that are drawn."""
    return COLORS[list(patterns).index(pattern) % len(COLORS)]


def short(pattern: str) -> str:
    """``Block(16, 16)`` as it is said: 16x16."""
    name, _, rest = pattern.partition("(")
    sides = rest.removesuffix(")").split(", ")
    if name == "Block":
        return f"blocks {'x'.join(sides)}"
    return ":".join(sides) if name == "NM" else name.lower()


def finish(figure: Any, measured: Measured, title: str, path: Any) -> None:
    """Write title and origin, and save."""
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    machine = measured.machine
    origin = f"{machine['cpu']}, {threads}, torch {machine['torch']}, commit {machine['commit'] or 'unknown'}"
    figure.supxlabel(origin, fontsize=7, color="0.45", x=0.99, ha="right")
    figure.savefig(path, dpi=DPI)


def clear(axes: Any) -> None:
    """Take away what no one reads."""
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
