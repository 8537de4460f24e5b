"""The result of a demo: rows, and what holds for them whatever the model was."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

PAYS = 1.05
"""How much faster than the best dense model a recipe has to be for its zeros to have paid."""


@dataclass(frozen=True)
class Row:
    """One recipe's figures.

    Args:
        recipe: its name.
        sparsity: fraction of zeros in the pruned layers' weights.
        dense_ms, sparse_ms: median of one forward pass, of the dense model and of the compiled one.
        megabytes: 10^6 bytes of the compiled model.
        sparse_layers, layers: layers that run sparse after compiling, and all that could.
        seconds: spent on pruning and learning.
    """

    recipe: str
    sparsity: float
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
class Report(ABC):
    """All rows of one model, and where and how they were measured."""

    rows: Sequence[Row]
    machine: dict[str, Any]
    example: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What was pruned, and the example that is timed."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Headers of the columns behind the recipe's name, in two lines."""

    @abstractmethod
    def cells(self, row: Any) -> tuple[str, ...]:
        """What ``row`` has in those columns."""

    @abstractmethod
    def caption(self) -> str:
        """Where it was measured, and what the words mean."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        rows = [{**asdict(row), "speedup": row.speedup} for row in self.rows]
        return {"machine": self.machine, "example": self.example, "rows": rows}

    def save(self, path: Path) -> None:
        """Write :meth:`as_json` to ``path``."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """Return the table that is printed."""
        table = Table(title=self.title, caption=self.caption(), box=SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("\nrecipe", no_wrap=True)
        for name in self.columns:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(row.recipe, *self.cells(row))
        return table

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

    def painted(self, row: Row) -> str:
        """Return the speedup of ``row`` in the colour that says whether zeros paid."""
        style = "green" if self.paid(row) else "yellow" if row.sparsity else "default"
        return f"[{style}]{row.speedup:.2f}x[/]"
