"""The picture of the demo: what fidelity is left against what speed is gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsekit.demo.report import Report

PAID, UNPAID = "#1b7f5c", "#b08a3c"


def draw(report: Report, path: Path) -> None:
    """Write the chart of ``report`` to ``path`` as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color="0.75", linewidth=1, linestyle="--", zorder=0)
    axes.axvline(report.best_dense, color="0.75", linewidth=1, zorder=0)
    for row in report.rows:
        color = "0.35" if not row.sparsity else PAID if report.paid(row) else UNPAID
        axes.scatter(row.speedup, row.cosine, s=90, color=color, edgecolor="white", zorder=3)
    _label(axes, report)
    axes.set_xlabel("speedup over the dense model as it came (solid line: the best dense)")
    axes.set_ylabel("cosine to the dense embedding, held-out text")
    axes.set_title(f"MiniLM, {report.example}", loc="left", fontweight="bold")
    machine = report.machine
    figure.supxlabel(f"{machine['cpu']}, {machine['threads']} threads", fontsize=8, color="0.45", x=0.99, ha="right")
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.1, y=0.12)
    axes.set_xlim(right=axes.get_xlim()[1] + 0.22 * (axes.get_xlim()[1] - axes.get_xlim()[0]))
    figure.savefig(path, dpi=150)


def _label(axes: Any, report: Report) -> None:
    """Write each recipe's name to the right of its point, lower where that is taken."""
    placed: list[tuple[float, float]] = []
    for row in sorted(report.rows, key=lambda row: -row.cosine):
        crowded = any(abs(row.speedup - x) < 0.5 and abs(row.cosine - y) < 0.025 for x, y in placed)
        placed.append((row.speedup, row.cosine))
        axes.annotate(
            f"{row.recipe}  {row.speedup:.2f}x",
            (row.speedup, row.cosine),
            xytext=(9, -9 if crowded else 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
