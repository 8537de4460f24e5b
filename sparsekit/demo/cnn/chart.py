"""The picture of the demo with convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsekit.demo.chart import clear, color_of, scatter, sign
from sparsekit.demo.cnn.report import NetworkReport, NetworkReports


def draw_networks(found: NetworkReports, path: Path) -> None:
    """Write a chart to ``path`` as PNG: accuracy against speed, and on the right the speed of the large networks."""
    from matplotlib.figure import Figure

    judged, *timed = found.reports
    figure = Figure(figsize=(8 + 5 * bool(timed), 5), layout="constrained")
    panels = figure.subplots(1, 1 + bool(timed), squeeze=False, width_ratios=(8, 5)[: 1 + bool(timed)])[0]
    scores = [100.0 * (row.accuracy or 0.0) for row in judged.rows]
    scatter(panels[0], judged, scores, "test images read right, %")
    if timed:
        _bars(panels[1], timed)
    sign(figure, judged)
    figure.savefig(path, dpi=150)


def _bars(axes: Any, reports: list[NetworkReport]) -> None:
    rows = [(report, row) for report in reports for row in report.rows]
    names = [f"{report.network}\n{row.recipe}" for report, row in rows]
    speedups = [row.speedup for _, row in rows]
    bars = axes.barh(range(len(rows)), speedups, height=0.6, color=[color_of(*pair) for pair in rows])
    axes.bar_label(bars, [f" {speedup:.2f}x" for speedup in speedups], fontsize=9)
    axes.axvline(1.0, color="0.75", linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("speedup over the fastest dense way")
    axes.set_title(f"Random weights, {reports[0].example}", loc="left", fontweight="bold")
    clear(axes)
