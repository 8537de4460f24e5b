"""From which sparsity on zeros pay: speedup against sparsity, a panel for each number of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsekit.bench.pictures.selection import JsonRow, Measured, fastest_by_sparsity, patterns_of
from sparsekit.bench.pictures.style import DENSE, PEER, ROUNDED, clear, color_of, finish, short

SPARSE_DOTS = (0, (1, 3))
COLD = (0, (2, 1))
SPARSE_PEERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "MKL CSR, best of 3 callers": ("--", ("torch CSR, by MKL", "MKL CSR, hinted", "sparse_dot_mkl")),
    "MKL BSR": ("-.", ("torch BSR, by MKL",)),
    "FBGEMM": (":", ("FBGEMM SparseDenseMM",)),
    "scipy CSR": (SPARSE_DOTS, ("scipy CSR",)),
}
"""What is drawn of others that read zeros: label, line, and the rows whose fastest counts."""
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
WIDTH = 5


def draw_crossover(measured: Measured, path: Path) -> None:
    """Write the picture of ``measured`` to ``path``: a row of panels for each kind of weights, and its legend."""
    from matplotlib.figure import Figure

    kinds = measured.kinds()
    width = min(WIDTH, max(len(measured.batches(kind)) for kind in kinds))
    figure = Figure(figsize=(2.3 * width + 2.6, 3.3 * len(kinds) + 0.6), layout="constrained")
    grid = figure.subplots(len(kinds), width + 1, squeeze=False, sharey="row")
    for line, kind in zip(grid, kinds):
        batches = measured.batches(kind)[-width:]
        labels: dict[str, Any] = {}
        for axes, batch in zip(line, batches):
            _panel(axes, measured, (kind, batch), labels)
        labels["weights from memory"] = line[0].plot([], [], color=DENSE, linestyle=COLD, linewidth=1.2)[0]
        labels["promised"] = line[0].plot([], [], "_", color=DENSE, markersize=11)[0]
        line[0].set_ylabel(f"{kind}: speedup over the fastest dense way", fontsize=8)
        for axes in line[len(batches) :]:
            axes.set_axis_off()
        line[len(batches)].legend(labels.values(), labels, loc="center left", fontsize=7.5, frameon=False)
    finish(figure, measured, "Speedup against sparsity, repeated calls", path)


def _panel(axes: Any, measured: Measured, at: tuple[str, int], labels: dict[str, Any]) -> None:
    """Draw one number of tokens; ``labels`` gathers what the legend says."""
    kind, batch = at
    ours, cold, peers = (measured.at(kind, batch, rows) for rows in (measured.rows, measured.cold, measured.peers))
    axes.axhline(1.0, color=DENSE, linewidth=1)
    patterns = patterns_of([row for row in measured.rows if row["weights"] == kind])
    for pattern in patterns_of(ours):
        warm, from_memory = (_of(pattern, rows) for rows in (ours, cold))
        color = color_of(pattern, patterns)
        _line(axes, warm, labels, short(pattern), color=color, marker=".", linewidth=1.8)
        _line(axes, from_memory, {}, "", color=color, linestyle=COLD, linewidth=1.2)
        promised = {s: row["floor"] for s, row in warm.items() if row["floor"]}
        axes.plot([1 / (1 - s) for s in promised], promised.values(), "_", color=color, markersize=11)
    for label, (style, names) in SPARSE_PEERS.items():
        found = fastest_by_sparsity(_on_one_pattern([row for row in peers if row["kernel"] in names]))
        _line(axes, found, labels, label, color=PEER, linestyle=style, linewidth=1.2)
    for rounds, color in ((False, "0.4"), (True, ROUNDED)):
        dense = [row for row in peers if not row["sparsity"] and ("int8" in row["kernel"]) is rounds]
        if dense:
            best = max(dense, key=lambda row: row["speedup"])
            label = f"best other dense way{', int8' if rounds else ''}"
            labels[label] = axes.axhline(best["speedup"], color=color, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_title(f"M={batch}, {measured.shape(kind, batch)}", fontsize=8, loc="left")
    _scales(axes)


def _of(pattern: str, rows: list[JsonRow]) -> dict[float, JsonRow]:
    return fastest_by_sparsity([row for row in rows if row["pattern"] == pattern])


def _on_one_pattern(rows: list[JsonRow]) -> list[JsonRow]:
    """Those of the first pattern: a library that does not see blocks is drawn once."""
    return [row for row in rows if row["pattern"] == rows[0]["pattern"]]


def _line(axes: Any, found: dict[float, JsonRow], labels: dict[str, Any], label: str, **style: Any) -> None:
    if found:
        style |= {"marker": "."} if len(found) == 1 else {}
        drawn = axes.plot([1 / (1 - s) for s in found], [row["speedup"] for row in found.values()], **style)
        labels.setdefault(label, drawn[0])


def _scales(axes: Any) -> None:
    from matplotlib.ticker import NullLocator

    clear(axes)
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.2, 34)
    axes.set_yticks(TICKS, [f"{tick:g}x" for tick in TICKS])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xscale("log")  # of one over the density: where only kept weights cost, lines are straight
    axes.set_xlim(1.8, 23)
    axes.set_xticks([1 / (1 - sparsity) for sparsity in SPARSITIES], [f"{sparsity:.0%}" for sparsity in SPARSITIES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7)
