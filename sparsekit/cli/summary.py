"""What pruning has done, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from sparsekit.mask import Mask


def summarise(masks: Mapping[str, Mask]) -> list[dict[str, Any]]:
    """Return one row per parameter, as JSON types."""
    return [
        {
            "name": name,
            "shape": list(mask.shape),
            "pattern": str(mask.pattern),
            "nnz": mask.nnz,
            "sparsity": mask.sparsity,
            "remainder": str(mask.remainder) if mask.remainder else "",
        }
        for name, mask in masks.items()
    ]


def summary_table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows, and their sum, as a table."""
    kept = sum(row["nnz"] for row in rows)
    total = sum(_count(row["shape"]) for row in rows)
    table = Table(show_footer=True)
    table.add_column("parameter", "all")
    table.add_column("shape", justify="right")
    table.add_column("pattern")
    table.add_column("kept", f"{kept:,}", justify="right")
    table.add_column("sparsity", f"{1 - kept / max(1, total):.2%}", justify="right")
    table.add_column("left over")
    for row in rows:
        shape = " x ".join(map(str, row["shape"]))
        cells = (row["name"], shape, row["pattern"], f"{row['nnz']:,}", f"{row['sparsity']:.2%}", row["remainder"])
        table.add_row(*cells)
    return table


def _count(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
