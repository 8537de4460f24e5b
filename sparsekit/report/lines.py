"""Series of a run as the lines of a panel: few enough to be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsekit.training.history import History

MANY = 12
"""Layers that one panel names; of more, it shows the range."""

LONG = 32
"""Characters of a layer's name that find room."""

ALIKE = 0.01
"""Share of a panel's range, all of [0, 1] for sparsity, within which no eye tells two lines apart."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Args:
        label: what it is.
        place: where its first layer stands among all layers, from 0.
        values: by row, NaN where there is none.
    """

    label: str
    place: int
    values: Values


@dataclass(frozen=True)
class Panel:
    """One series of a run.

    Args:
        name: of the series.
        layers: how many have it; 0 where it is one of the whole run.
        values: ``(layers or 1, rows)``, NaN where there is none or it is infinite.
        lines: what is drawn, unless there are :data:`MANY` layers or more.
    """

    name: str
    layers: int
    values: Values
    lines: tuple[Line, ...]


def panels_of(history: History) -> list[Panel]:
    """Return one panel per series, in the order in which they appear; sparsity is the first."""
    names = list(dict.fromkeys(name for row in history.rows for name in row if name != "step"))
    order = list(dict.fromkeys(layer for row in history.rows for layer in row.get("sparsity", {})))
    return [_panel(history, name, order) for name in sorted(names, key=lambda name: name != "sparsity")]


def _panel(history: History, name: str, order: Sequence[str]) -> Panel:
    keys = list(dict.fromkeys(layer for row in history.rows for layer in row.get(name, {})))
    rows = [[row.get(name, {}).get(key, np.nan) for row in history.rows] for key in keys]
    values = np.array(rows, dtype=np.float64).reshape(len(keys), len(history.rows))
    values[~np.isfinite(values)] = np.nan
    places = [order.index(key) if key in order else 0 for key in keys]
    layers = 0 if keys == ["all"] else len(keys)
    known = values[np.isfinite(values)]
    room = ALIKE * (1.0 if name == "sparsity" else float(np.ptp(known)) if known.size else 0.0)
    return Panel(name, layers, values, () if layers > MANY else _grouped(shortened(keys), places, values, room))


def _grouped(keys: Sequence[str], places: Sequence[int], values: Values, room: float) -> tuple[Line, ...]:
    """One line per group of layers that are within ``room`` of the first of them."""
    groups: list[list[int]] = []
    for index, row in enumerate(values):
        alike = (group for group in groups if np.allclose(values[group[0]], row, rtol=0, atol=room, equal_nan=True))
        found = next(alike, None)
        if found is None:
            groups.append([index])
        else:
            found.append(index)
    return tuple(Line(_label(group, keys), places[group[0]], values[group[0]]) for group in groups)


def _label(group: Sequence[int], keys: Sequence[str]) -> str:
    first = keys[group[0]]
    if len(group) == len(keys) > 1:
        return f"all {len(keys)} layers"
    return first if len(group) == 1 else f"{first} and {len(group) - 1} more"


def shortened(names: Sequence[str]) -> list[str]:
    """Return names of layers without what all of them share, where one of them is long, and cut to what has room."""
    if all(len(name) <= LONG for name in names):
        return list(names)
    if len(names) == 1:
        return [f"...{names[0][3 - LONG :]}"]
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    head = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest)
    tail = next((i for i in range(shortest - head) if len({part[-1 - i] for part in parts}) > 1), shortest - head)
    first = max(0, head - 1)  # the word before: what the number after it counts
    kept = [".".join(part[first : len(part) - tail]) or name for part, name in zip(parts, names)]
    return [name if len(name) <= LONG else f"...{name[3 - LONG :]}" for name in kept]
