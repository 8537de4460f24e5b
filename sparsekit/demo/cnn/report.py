"""The result of the demo with convolutions: one report per network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsekit.demo.report import Report, Row


@dataclass(frozen=True)
class NetworkRow(Row):
    """One recipe's figures for one network, timed against the fastest dense way.

    Args:
        accuracy: share of the test images that are read right; None for weights that never learned.
        dense_way: what the fastest dense way was.
    """

    accuracy: float | None
    dense_way: str


@dataclass(frozen=True)
class NetworkReport(Report):
    """All recipes of one network.

    Args:
        network: what it is called.
    """

    rows: tuple[NetworkRow, ...]
    network: str

    @property
    def title(self) -> str:
        """What was pruned, and the example that is timed."""
        return f"{self.network}, {self.example}"

    @property
    def judged(self) -> bool:
        """Whether the network has learned anything."""
        return any(row.accuracy is not None for row in self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Headers of the columns behind the recipe's name."""
        judged = ("\naccuracy",) if self.judged else ()
        timed = ("dense\nms", "sparse\nms", "\nspeedup", "sparse\nlayers", "size\nMB")
        return ("\nsparsity", *judged, *timed, *(("\nseconds",) if self.judged else ()))

    def caption(self) -> str:
        """Where it was measured, and what the words mean."""
        m = self.machine
        weights = "seconds: of training" if self.judged else "random weights, pruned by magnitude"
        ways = ", ".join(dict.fromkeys(row.dense_way for row in self.rows))
        return (
            f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}; medians, interleaved\n"
            f"sparsity: of the convolutions; {weights}\n"
            f"fastest dense way: {ways}"
        )

    def cells(self, row: NetworkRow) -> tuple[str, ...]:
        """What ``row`` has in the columns."""
        timed = (
            f"{row.dense_ms:.2f}",
            f"{row.sparse_ms:.2f}",
            self.painted(row),
            f"{row.sparse_layers}/{row.layers}",
            f"{row.megabytes:.2f}",
        )
        if not self.judged:
            return (f"{row.sparsity:.1%}", *timed)
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}"
        return (f"{row.sparsity:.1%}", accuracy, *timed, f"{row.seconds:.1f}")

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"network": self.network, **super().as_json()}


@dataclass(frozen=True)
class NetworkReports:
    """What the demo has found, network by network; the first is the one that has learned."""

    reports: tuple[NetworkReport, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"networks": [report.as_json() for report in self.reports]}

    def save(self, path: Path) -> None:
        """Write :meth:`as_json` to ``path``."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
