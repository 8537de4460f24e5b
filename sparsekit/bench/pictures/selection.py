"""Which of the measured rows the pictures show: one thread, and per number of tokens one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JsonRow = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """The rows of one number of threads and, for each number of tokens, of one shape.

    Args:
        rows: of our kernels, dense ones included.
        peers: of others.
        machine, peak: where it was, and what that reaches: ``flops`` and ``bandwidth``, or nothing.
        shapes: by kind of weights and tokens, inputs and outputs.
        threads: how many.
    """

    rows: tuple[JsonRow, ...]
    peers: tuple[JsonRow, ...]
    machine: Mapping[str, Any]
    peak: Mapping[str, float]
    shapes: Mapping[tuple[str, int], tuple[int, int]]
    threads: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Measured:
        """Choose the fewest threads, and the shape that has the most rows: where the peers are."""
        rows = [row for row in content["rows"] if row["sizes"]]
        threads = min((row["threads"] for row in rows), default=1)
        rows = [row for row in rows if row["threads"] == threads]
        shapes: dict[tuple[str, int], tuple[int, int]] = {}
        for key in sorted({(row["weights"], row["sizes"][0]) for row in rows}):
            found = Counter(tuple(row["sizes"][1:]) for row in rows if (row["weights"], row["sizes"][0]) == key)
            shapes[key] = found.most_common(1)[0][0]
        usual = Counter(shapes.values()).most_common(1)
        chosen = {key: shape for key, shape in shapes.items() if key[1] in _usual_batches(shapes, usual)}
        rows = [r for r in rows if chosen.get((r["weights"], r["sizes"][0])) == tuple(r["sizes"][1:])]
        return cls(
            tuple(row for row in rows if not row["peer"]),
            tuple(row for row in rows if row["peer"]),
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

    def at(self, weights: str, batch: int, peers: bool = False) -> list[JsonRow]:
        """The rows of one kind and number of tokens."""
        rows = self.peers if peers else self.rows
        return [row for row in rows if row["weights"] == weights and row["sizes"][0] == batch]

    def shape(self, weights: str, batch: int) -> str:
        """Inputs and outputs in a few words."""
        columns, rows = self.shapes[weights, batch]
        return f"K={columns} N={rows}"


def _usual_batches(
    shapes: Mapping[tuple[str, int], tuple[int, int]], usual: list[tuple[tuple[int, int], int]]
) -> set[int]:
    """Tokens that were measured on the most usual shape, or on another power of two."""
    return {batch for (_, batch), shape in shapes.items() if shape == usual[0][0] or batch & (batch - 1) == 0}


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
