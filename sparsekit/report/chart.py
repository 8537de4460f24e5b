"""The picture of a run: sparsity by layer over the steps, and a panel for all else that its method tells."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from sparsekit.report.lines import Panel, panels_of
from sparsekit.training.history import History

SINGLE, BAND = "#1b7f5c", "#b9d8cc"
COLORS = (*(f"C{index}" for index in range(10)), "black", "#c9a400")
DECADES = 1000.0
"""Largest over smallest value from which on a panel of positive values is logarithmic."""


def draw_history(history: History, path: Path) -> None:
    """Write the picture of ``history`` to ``path``, as what its ending says: PNG, SVG or PDF."""
    from matplotlib.figure import Figure

    panels = panels_of(history)
    heights = [2.8, *[1.9] * (len(panels) - 1)]
    figure = Figure(figsize=(8, sum(heights) + 0.9), layout="constrained")
    column = figure.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    steps = [row["step"] for row in history.rows]
    for axes, panel in zip(column, panels):
        _draw(axes, panel, steps)
    column[-1].set_xlabel("optimizer steps")
    name, settings = _title(history.method)
    figure.suptitle(name, x=0.01, ha="left", fontweight="bold")
    column[0].set_title(settings, loc="left", fontsize=8, color="0.45")
    figure.align_ylabels(list(column))
    figure.savefig(path, dpi=150)


def _draw(axes: Any, panel: Panel, steps: list[int]) -> None:
    """Draw one panel: named lines, or the range over many layers."""
    mark = "." if len(steps) < 3 else ""
    if panel.lines:
        several = panel.layers > 0
        for line in panel.lines:
            color = COLORS[line.place % len(COLORS)] if several and len(panel.lines) > 1 else SINGLE
            axes.plot(steps, line.values, color=color, label=line.label, marker=mark, linewidth=1.6)
    else:
        several = True
        low, middle, high = _quantiles(panel.values)
        axes.fill_between(steps, low, high, color=BAND, linewidth=0, label=f"all {panel.layers} layers")
        axes.plot(steps, middle, color=SINGLE, linewidth=1.6, marker=mark, label="their median")
    axes.margins(x=0.02)
    _scale(axes, panel)
    axes.set_ylabel(panel.name.replace("_", " "))
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if several:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=7, frameon=False, borderaxespad=0.0)


def _scale(axes: Any, panel: Panel) -> None:
    """Sparsity from 0 to 100 %; positive numbers over decades by their logarithm."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    known = panel.values[np.isfinite(panel.values)]
    if panel.name == "sparsity":
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif known.size and known.min() > 0 and known.max() > DECADES * known.min():
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)


def _quantiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Any, Any, Any]:
    """Least, median and largest value of each row over the layers that have one."""
    known = np.isfinite(values).any(axis=0)
    found = np.full((3, values.shape[1]), np.nan)
    found[:, known] = np.nanquantile(values[:, known], (0.0, 0.5, 1.0), axis=0)
    return found[0], found[1], found[2]


def _title(method: str) -> tuple[str, str]:
    """The name of a method, and its settings in lines that fit."""
    name, _, settings = method.partition("(")
    return name, textwrap.fill(settings.removesuffix(")"), 100)
