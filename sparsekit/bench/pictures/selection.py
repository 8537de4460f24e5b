"""Which of the measured rows the pictures show: one thread, and per number of tokens one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

JsonRow = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """The rows of one number of threads and, for each number of tokens, of one shape.

    Args:
        rows: of our kernels, dense ones included, where calls were repeated.
        cold: of the same, where weights came from memory.
        peers: of others, where calls were repeated.
        machine, peak: where it was, and what that reaches: ``flops`` and ``bandwidth``, or nothing.
        shapes: by kind of weights and tokens, inputs and outputs.
        threads: how many.
    """

    rows: tuple[JsonRow, ...]
    cold: tuple[JsonRow, ...]
    peers: tuple[JsonRow, ...]
    machine: Mapping[str, Any]
    peak: Mapping[str, float]
    shapes: Mapping[tuple[str, int], tuple[int, int]]
    threads: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Measured:
        """Choose the fewest threads, and the shape that has the most rows, where the peers are, if it has any."""
        rows = [row for row in content["rows"] if row["sizes"]]
        threads = min((row["threads"] for row in rows), default=1)
        rows = [row for row in rows if row["threads"] == threads]
        usual = _most_frequent(rows)
        shapes: dict[tuple[str, int], tuple[int, int]] = {}
        for key in sorted({(row["weights"], row["sizes"][0]) for row in rows}):
            found = [row for row in rows if (row["weights"], row["sizes"][0]) == key]
            shapes[key] = _most_frequent([row for row in found if tuple(row["sizes"][1:]) == usual] or found)
        chosen = {key: shape for key, shape in shapes.items() if key[1] in _usual_batches(shapes, usual)}
        rows = [r for r in rows if chosen.get((r["weights"], r["sizes"][0])) == tuple(r["sizes"][1:])]
        return cls(
            tuple(row for row in rows if not row["peer"] and row["memory"] == "warm"),
            tuple(row for row in rows if not row["peer"] and row["memory"] == "cold"),
            tuple(row for row in rows if row["peer"] and row["memory"] == "warm"),
            content["machine"],
            content.get("peaks", {}).get(str(threads), {}),
            chosen,
            threads,
        )

    def kinds(self) -> list[str]:
        """Kinds of weights that a sparse kernel runs, in the order in which they were measured."""
        return list(dict.fromkeys(row["weights"] for row in self.rows if row["sparsity"]))

    def batches(self, weights: str) -> list[int]:
        """Numbers of tokens, ascending."""
        sparse = {row["sizes"][0] for row in self.rows if row["weights"] == weights and row["sparsity"]}
        return sorted(sparse)

    def at(self, weights: str, batch: int, rows: Iterable[JsonRow] | None = None) -> list[JsonRow]:
        """Those of ``rows``, or else of our warm ones, that have one kind of weights and number of tokens."""
        rows = self.rows if rows is None else rows
        return [row for row in rows if row["weights"] == weights and row["sizes"][0] == batch]

    def shape(self, weights: str, batch: int) -> str:
        """Inputs and outputs in a few words."""
        columns, rows = self.shapes[weights, batch]
        return f"K={columns} N={rows}"


def _most_frequent(rows: list[JsonRow]) -> tuple[int, int]:
    """The shape of the most rows; of no inputs and outputs without rows."""
    found: Counter[tuple[int, int]] = Counter(tuple(row["sizes"][1:]) for row in rows)
    return max(found, key=lambda shape: found[shape], default=(0, 0))


def _usual_batches(shapes: Mapping[tuple[str, int], tuple[int, int]], usual: tuple[int, int]) -> set[int]:
    """Tokens that were measured on the most frequent shape, or on another power of two."""
    return {batch for (_, batch), shape in shapes.items() if shape == usual or batch & (batch - 1) == 0}


def fastest_by_sparsity(rows: list[JsonRow]) -> dict[float, JsonRow]:
    """The fastest row of each sparsity above 0, ascending."""
    best: dict[float, JsonRow] = {}
    for row in rows:
        sparsity = row["sparsity"]
        if sparsity and (sparsity not in best or row["seconds"] < best[sparsity]["seconds"]):
            best[sparsity] = row
    return dict(sorted(best.items()))


def patterns_of(rows: list[JsonRow]) -> list[str]:
    """Patterns in the order in which they were measured."""
    return list(dict.fromkeys(row["pattern"] for row in rows))
