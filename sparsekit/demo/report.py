"""The result of the demo: rows, and how they are printed and saved."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

PAYS = 1.05
"""How much faster than the best dense model a recipe has to be for its zeros to have paid."""

COLUMNS = (
    "\nsparsity",
    "\ncosine",
    "search\ntop-1",
    "dense\nms",
    "sparse\nms",
    "\nspeedup",
    "sparse\nlayers",
    "size\nMB",
)


@dataclass(frozen=True)
class Row:
    """One recipe's figures.

    Args:
        recipe: its name.
        sparsity: fraction of zeros in the pruned layers' weights.
        cosine, retrieval: see :class:`~sparsekit.demo.fidelity.Fidelity`.
        dense_ms, sparse_ms: median of one forward pass, of the model as it came and of the compiled one.
        megabytes: 10^6 bytes of the file on disk.
        sparse_layers, layers: layers that run sparse after compiling, and all that could.
        seconds: spent on pruning and learning.
    """

    recipe: str
    sparsity: float
    cosine: float
    retrieval: float
    dense_ms: float
    sparse_ms: float
    megabytes: float
    sparse_layers: int
    layers: int
    seconds: float

    @property
    def speedup(self) -> float:
        """Dense time over sparse time."""
        return self.dense_ms / self.sparse_ms


@dataclass(frozen=True)
class Report:
    """All rows, and where and how they were measured."""

    rows: tuple[Row, ...]
    machine: dict[str, Any]
    example: str

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        rows = [{**asdict(row), "speedup": row.speedup} for row in self.rows]
        return {"machine": self.machine, "example": self.example, "rows": rows}

    def save(self, path: Path) -> None:
        """Write :meth:`as_json` to ``path``."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """Return the table that is printed."""
        title = f"MiniLM sentence encoder, {self.example}"
        table = Table(title=title, caption=self.caption(), box=SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("\nrecipe", no_wrap=True)
        for name in COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*self._cells(row))
        return table

    def caption(self) -> str:
        """Where it was measured, and what the words mean."""
        m = self.machine
        return (
            f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}; medians, interleaved\n"
            "sparsity: of the encoder's Linear layers; the embedding tables stay dense\n"
            "cosine to the dense embedding and top-1 retrieval on held-out docstrings"
        )

    @property
    def best_dense(self) -> float:
        """Speedup of the dense model where that was compiled too, and at least 1: what zeros have to beat."""
        return max([1.0, *(row.speedup for row in self.rows if not row.sparsity)])

    def paid(self, row: Row) -> bool:
        """Whether the zeros of ``row`` beat the best dense model."""
        return row.speedup >= PAYS * self.best_dense

    def regrets(self) -> list[str]:
        """One sentence for each recipe whose zeros did not pay in time."""
        return [
            f"{row.recipe}: zeros did not pay here: {row.speedup:.2f}x with {row.sparse_layers} of {row.layers} layers "
            f"sparse, and {self.best_dense:.2f}x is had without zeros."
            for row in self.rows
            if row.sparsity and not self.paid(row)
        ]

    def _cells(self, row: Row) -> tuple[str, ...]:
        style = "green" if self.paid(row) else "yellow" if row.sparsity else "default"
        return (
            row.recipe,
            f"{row.sparsity:.1%}",
            f"{row.cosine:.3f}",
            f"{row.retrieval:.1%}",
            f"{row.dense_ms:.1f}",
            f"{row.sparse_ms:.1f}",
            f"[{style}]{row.speedup:.2f}x[/]",
            f"{row.sparse_layers}/{row.layers}",
            f"{row.megabytes:.1f}",
        )
