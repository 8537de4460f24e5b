"""That cost grows with kept weights: time against their number, with the line that fits best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparsekit.bench.pictures.selection import JsonRow, Measured, fastest_by_sparsity, patterns_of
from sparsekit.bench.pictures.style import clear, color_of, finish, short

WIDTH = 4


def fit(rows: list[JsonRow]) -> tuple[float, float, float]:
    """Return the line that fits time over kept weights: ns per weight, us without any, and R^2.

    Args:
        rows: of one kernel, at two sparsities or more.
    """
    kept = np.array([row["kept"] for row in rows], dtype=np.float64)
    seconds = np.array([row["seconds"] for row in rows])
    slope, start = np.polyfit(kept, seconds, 1)
    missed = float(np.square(seconds - slope * kept - start).sum())
    spread = float(np.square(seconds - seconds.mean()).sum())
    return float(slope) * 1e9, float(start) * 1e6, 1.0 - missed / spread if spread else 1.0


def lines_of(rows: list[JsonRow]) -> dict[tuple[str, str], list[JsonRow]]:
    """The rows by pattern and kernel of those kernels that are the fastest at some sparsity, most kept weights last."""
    found: dict[tuple[str, str], list[JsonRow]] = {}
    for pattern in patterns_of(rows):
        own = [row for row in rows if row["pattern"] == pattern and row["sparsity"]]
        for kernel in dict.fromkeys(row["kernel"] for row in fastest_by_sparsity(own).values()):
            line = sorted((row for row in own if row["kernel"] == kernel), key=lambda row: row["kept"])
            if len(line) > 1:
                found[pattern, kernel] = line
    return found


def draw_growth(measured: Measured, path: Path) -> None:
    """Write the picture of ``measured`` to ``path``: a panel for each kind of weights and number of tokens."""
    from matplotlib.figure import Figure

    panels = [(kind, batch) for kind in measured.kinds() for batch in measured.batches(kind)]
    panels = [panel for panel in panels if lines_of(measured.at(*panel))]
    width = min(WIDTH, max(1, len(panels)))
    height = max(1, -(-len(panels) // width))
    figure = Figure(figsize=(4.1 * width, 3.4 * height + 0.5), layout="constrained")
    grid = figure.subplots(height, width, squeeze=False).ravel()
    for axes, (kind, batch) in zip(grid, panels):
        _panel(axes, measured, kind, batch)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    finish(figure, measured, "Time against kept weights, with the line that fits repeated calls best", path)


def _panel(axes: Any, measured: Measured, kind: str, batch: int) -> None:
    patterns = patterns_of([row for row in measured.rows if row["weights"] == kind])
    from_memory = measured.at(kind, batch, measured.cold)
    for number, ((pattern, kernel), line) in enumerate(lines_of(measured.at(kind, batch)).items()):
        slope, start, r2 = fit(line)
        kept = np.array([0, max(row["kept"] for row in line)])
        color, marker = color_of(pattern, patterns), "osD^v"[number % 5]
        label = f"{short(pattern)}, {kernel.removesuffix('_native')}: R\u00b2 {r2:.4f}"
        times = [row["seconds"] * 1e6 for row in line]
        axes.plot([row["kept"] / 1e6 for row in line], times, marker, color=color, markersize=4, label=label)
        axes.plot(kept / 1e6, kept * slope * 1e-3 + start, color=color, linewidth=0.8)
        cold = [r for r in from_memory if (r["pattern"], r["kernel"]) == (pattern, kernel) and r["sparsity"]]
        times = [row["seconds"] * 1e6 for row in cold]
        axes.plot([row["kept"] / 1e6 for row in cold], times, marker, color=color, markersize=4, fillstyle="none")
    axes.plot([], [], "o", color="0.45", markersize=4, fillstyle="none", label="hollow: weights from memory")
    clear(axes)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{kind}, M={batch}, {measured.shape(kind, batch)}", fontsize=8.5, loc="left")
    axes.set_xlabel("million kept weights", fontsize=8)
    axes.set_ylabel("microseconds", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.margins(y=0.35)
    axes.legend(loc="upper left", fontsize=6.5, frameon=False)
