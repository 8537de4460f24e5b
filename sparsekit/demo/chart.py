"""The picture of a demo: what a pruned model is still worth against what speed is gained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsekit.demo.report import Report, Row

DENSE, PAID, UNPAID = "0.35", "#1b7f5c", "#b08a3c"
NEAR = (0.16, 0.05)
"""Two points this near to each other, as shares of the axes, would have their names written over each other."""


def draw(report: Report, scores: Sequence[float], label: str, path: Path) -> None:
    """Write the chart of ``report`` to ``path`` as PNG: one point per row, ``scores`` upwards under ``label``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    scatter(figure.subplots(), report, scores, label)
    sign(figure, report)
    figure.savefig(path, dpi=150)


def scatter(axes: Any, report: Report, scores: Sequence[float], label: str) -> None:
    """Draw the rows of ``report`` as points, each with its name."""
    axes.axvline(1.0, color="0.75", linewidth=1, linestyle="--", zorder=0)
    axes.axvline(report.best_dense, color="0.75", linewidth=1, zorder=0)
    for row, score in zip(report.rows, scores):
        axes.scatter(row.speedup, score, s=90, color=color_of(report, row), edgecolor="white", zorder=3)
    axes.set_xlabel("speedup over the dense model (solid line: the best dense)")
    axes.set_ylabel(label)
    axes.set_title(report.title, loc="left", fontweight="bold")
    clear(axes)
    axes.margins(x=0.1, y=0.12)
    axes.set_xlim(right=axes.get_xlim()[1] + 0.22 * (axes.get_xlim()[1] - axes.get_xlim()[0]))
    _name(axes, report, scores)


def color_of(report: Report, row: Row) -> str:
    """Return the colour that says whether the zeros of ``row`` paid."""
    return DENSE if not row.sparsity else PAID if report.paid(row) else UNPAID


def clear(axes: Any) -> None:
    """Take away what no one reads."""
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def sign(figure: Any, report: Report) -> None:
    """Say below where it was measured."""
    machine = report.machine
    figure.supxlabel(f"{machine['cpu']}, {machine['threads']} threads", fontsize=8, color="0.45", x=0.99, ha="right")


def _name(axes: Any, report: Report, scores: Sequence[float]) -> None:
    """Write each recipe's name to the right of its point, lower where that is taken."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    placed: list[tuple[float, float]] = []
    for row, score in sorted(zip(report.rows, scores), key=lambda pair: -pair[1]):
        place = (row.speedup - left) / (right - left), (score - low) / (high - low)
        crowded = any(abs(place[0] - x) < NEAR[0] and abs(place[1] - y) < NEAR[1] for x, y in placed)
        placed.append(place)
        axes.annotate(
            f"{row.recipe}  {row.speedup:.2f}x",
            (row.speedup, score),
            xytext=(9, -9 if crowded else 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
