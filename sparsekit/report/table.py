"""The end of a run as a table."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from sparsekit.training.history import History, Series


def last_values(history: History) -> dict[str, Series]:
    """Return the last value of each series, by layer."""
    found: dict[str, Series] = {}
    for row in history.rows:
        for name, values in row.items():
            if name != "step":
                found.setdefault(name, {}).update(values)
    return found


def history_table(history: History) -> Table:
    """Return the last values: a row per layer, a column per series."""
    found = last_values(history)
    table = Table()
    table.add_column("layer")
    for name in found:
        table.add_column(name.replace("_", " "), justify="right")
    layers = dict.fromkeys(layer for values in found.values() for layer in values)
    for layer in sorted(layers, key=lambda layer: layer == "all"):
        cells = (_cell(name, values[layer]) if layer in values else "" for name, values in found.items())
        table.add_row(escape("whole run" if layer == "all" else layer), *cells)
    return table


def _cell(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "sparsity" else f"{value:.4g}"
