"""How near each kernel comes to what the machine can do: kept FLOP per second against FLOP per byte."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsekit.bench.pictures.selection import JsonRow, Measured, fastest_by_sparsity, patterns_of
from sparsekit.bench.pictures.style import DENSE, clear, color_of, finish, short

SHOWN = 0.8
"""The sparsity whose points are drawn; a pattern that fixes its own has the nearest."""
MARKERS = "os^Dvp*X"
"""Of numbers of tokens, ascending."""


def draw_roofline(measured: Measured, path: Path) -> None:
    """Write the picture of ``measured`` to ``path``: a panel for each kind of weights."""
    from matplotlib.figure import Figure

    kinds = measured.kinds()
    figure = Figure(figsize=(5.2 * len(kinds) + 0.6, 4.8), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
        _panel(axes, measured, kind)
    finish(figure, measured, f"Roofline: the fastest kernels at {SHOWN:.0%} zeros", path)


def _panel(axes: Any, measured: Measured, kind: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    rows = [row for row in measured.rows if row["weights"] == kind and row["intensity"]]
    dense = _by_tokens([row for row in rows if not row["sparsity"] and row["sizes"][0] in measured.batches(kind)])
    patterns, batches = patterns_of([r for r in measured.rows if r["weights"] == kind]), measured.batches(kind)
    series = {"fastest dense way": (DENSE, dense)}
    for pattern in patterns:
        own = [row for row in rows if row["pattern"] == pattern]
        series[short(pattern)] = (color_of(pattern, patterns), _by_tokens(_nearest(own)))
        cold = [row for row in measured.cold if row["weights"] == kind and row["pattern"] == pattern]
        for batch, row in _by_tokens(_nearest(cold)).items():
            at, marker = (row["intensity"], row["kept_flops"] / 1e9), _marker(batches, batch)
            axes.plot(*at, marker, color=color_of(pattern, patterns), markersize=5, fillstyle="none")
    for label, (color, found) in series.items():
        points = {batch: (row["intensity"], row["kept_flops"] / 1e9) for batch, row in found.items()}
        if points:
            axes.plot(*zip(*points.values()), color=color, linewidth=0.9, label=label)
        for batch, point in points.items():
            axes.plot(*point, _marker(batches, batch), color=color, markersize=6)
    for batch in batches:
        axes.plot([], [], _marker(batches, batch), color="0.45", label=f"M={batch}")
    axes.plot([], [], MARKERS[0], color="0.45", fillstyle="none", label="hollow: weights from memory")
    _roof(axes, measured, kind, rows)
    clear(axes)
    axes.set_title(kind, fontsize=9, loc="left")
    axes.set_xlabel("FLOP per byte of packed weight, input and output", fontsize=8)
    axes.set_ylabel("GFLOP/s of kept weights", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(loc="lower right", fontsize=7.5, frameon=False)


def _marker(batches: list[int], batch: int) -> str:
    return MARKERS[batches.index(batch) % len(MARKERS)]


def _nearest(rows: list[JsonRow]) -> list[JsonRow]:
    """The rows of the sparsity that is shown."""
    sparsities = fastest_by_sparsity(rows)
    if not sparsities:
        return []
    nearest = min(sparsities, key=lambda sparsity: abs(sparsity - SHOWN))
    return [row for row in rows if row["sparsity"] == nearest]


def _by_tokens(rows: list[JsonRow]) -> dict[int, JsonRow]:
    """The fastest row of each number of tokens, ascending."""
    best: dict[int, JsonRow] = {}
    for row in rows:
        batch = row["sizes"][0]
        if batch not in best or row["seconds"] < best[batch]["seconds"]:
            best[batch] = row
    return dict(sorted(best.items()))


def _roof(axes: Any, measured: Measured, kind: str, rows: list[JsonRow]) -> None:
    """Draw what memory allows, the multiply-adds of fp32, and the rate that the dense ways reach."""
    peak, bandwidth = measured.peak.get("flops", 0.0) / 1e9, measured.peak.get("bandwidth", 0.0) / 1e9
    dense = max((row["kept_flops"] / 1e9 for row in rows if not row["sparsity"]), default=0.0)
    left, right = (end * scale for end, scale in zip(_ends(row["intensity"] for row in rows), (0.6, 1.6)))
    top = peak if kind == "float32" and peak else 1.5 * max(row["kept_flops"] / 1e9 for row in rows)
    if bandwidth:
        ridge = min(top / bandwidth, right)
        axes.plot([left, ridge], [left * bandwidth, ridge * bandwidth], color="0.7", zorder=0)
        _say(axes, f"{bandwidth:.0f} GB/s from memory", (left, left * bandwidth), (10, 0))
    if top == peak:
        start = min(max(left, peak / bandwidth), right) if bandwidth else left
        axes.plot([start, right], [peak, peak], color="0.7", zorder=0)
        _say(axes, f"{peak:.0f} GFLOP/s from registers", (right, peak), (0, 3), ha="right")
    axes.axhline(dense, color=DENSE, linewidth=0.8, linestyle=":", zorder=0)
    _say(axes, f"dense reaches {dense:.0f}", (left, dense), (0, 3))
    axes.set_ylim(top=1.5 * max(top, dense))


def _say(axes: Any, text: str, at: tuple[float, float], away: tuple[int, int], ha: str = "left") -> None:
    axes.annotate(text, at, away, textcoords="offset points", fontsize=7, color="0.35", ha=ha)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)
