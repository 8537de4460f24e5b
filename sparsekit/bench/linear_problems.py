"""The products that ``sparsekit bench linear`` measures, and what each has to reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from sparsekit.bench.problems import LinearProblem
from sparsekit.bench.weights import WEIGHTS
from sparsekit.patterns import NM, Block, Pattern, Unstructured

Floors = dict[float, float | None]

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def _floors(*speedups: float | None) -> Floors:
    return dict(zip(SPARSITIES, speedups))


NO_PROMISE = _floors(None, None, None, None, None)
MANY, FEW, ONE = _floors(1.3, 1.9, 2.6, 4.8, 8.5), _floors(1.1, 1.6, 2.2, 4.2, 8.0), _floors(1.8, 2.4, 3.5, 6.5, 11.0)
BLOCKS, WIDE_BLOCKS = _floors(1.85, 3.0, 4.5, 8.8, 16.0), _floors(1.8, 3.0, 4.3, 7.5, 12.0)

PROMISES: tuple[tuple[Pattern, str, dict[int, Floors]], ...] = (
    (Unstructured(), "float32", {1: ONE, 16: FEW, 64: MANY, 128: MANY, 512: MANY}),
    (Block(16, 16), "float32", {1: NO_PROMISE, 16: BLOCKS, 128: BLOCKS, 512: BLOCKS}),
    (Block(16, 1), "float32", {1: NO_PROMISE, 16: BLOCKS, 128: BLOCKS, 512: BLOCKS}),
    (NM(2, 4), "float32", {1: {0.5: 1.75}}),
    (Block(32, 32), "bfloat16", {32: WIDE_BLOCKS, 128: WIDE_BLOCKS, 512: WIDE_BLOCKS}),
    (Block(16, 2), "bfloat16", {1: _floors(1.7, 2.8, 4.0, 8.0, None)}),
    (Block(32, 32), "int8", dict.fromkeys((32, 128, 512), _floors(1.6, 2.6, 3.8, 7.0, None))),
    (Unstructured(), "int8", {1: NO_PROMISE}),
)
"""Patterns, kinds of weights, and by number of tokens the speedups over the fastest dense way of that kind."""
SHAPES = ((2048, 2048), (1024, 4096), (4096, 1024))
"""Inputs and outputs."""
PEERS_SHAPE = (1024, 4096)
"""Where other libraries are measured too: once for each number of tokens."""
UNEVEN, UNEVEN_BATCHES = (1537, 771), {7: None, 33: 16}
"""A shape that is not round, and its numbers of tokens with the one whose promise holds; None promises nothing."""


def _promised() -> Iterator[LinearProblem]:
    for pattern, weights, by_batch in PROMISES:
        if weights not in WEIGHTS:
            continue
        for columns, rows in SHAPES:
            for batch, floors in by_batch.items():
                peers = _peers(pattern, weights, (columns, rows))
                yield LinearProblem(batch, columns, rows, pattern, floors, weights=weights, peers=peers)
        if len(by_batch) > 1:
            for batch, like in UNEVEN_BATCHES.items():
                floors = NO_PROMISE if like is None else by_batch.get(like, by_batch[max(by_batch)])
                peers = _peers(pattern, weights, UNEVEN)
                yield LinearProblem(batch, *UNEVEN, pattern, floors, weights=weights, peers=peers)


def _peers(pattern: Pattern, weights: str, shape: tuple[int, int]) -> Literal["none", "sparse", "all"]:
    """All on one shape beside unstructured and 16-bit weights, and those that read zeros beside fp32 blocks.

    In 8 bits the dense ways of others are what has to be beaten, so that they are everywhere.
    """
    if weights == "int8":
        return "all"
    if shape != PEERS_SHAPE:
        return "none"
    if pattern == Unstructured() or weights != "float32":
        return "all"
    return "sparse" if pattern == Block(16, 16) else "none"


PROBLEMS = (
    *_promised(),
    LinearProblem(1, 4096, 4096, Unstructured(), ONE),
    LinearProblem(1, 4096, 4096, Block(16, 16), NO_PROMISE),
    LinearProblem(1, 4096, 11008, Unstructured(), {0.5: 1.6, 0.7: 2.3}, weights="int8", peers="all"),
)
"""The last is promised where memory sets the pace: its 45 MB of dense weights fit into few caches."""
_QUICK: Floors = {0.5: None, 0.8: None, 0.9: None}
QUICK_PROBLEMS = (
    LinearProblem(128, 1024, 4096, Unstructured(), {**_QUICK, 0.9: MANY[0.9]}, (1,), peers="all"),
    LinearProblem(128, 1024, 4096, Block(16, 16), {**_QUICK, 0.9: BLOCKS[0.9]}, (1,), peers="sparse"),
    LinearProblem(1, 4096, 4096, Unstructured(), {**_QUICK, 0.9: ONE[0.9]}, (1,)),
    LinearProblem(128, 1024, 4096, Block(32, 32), {**_QUICK, 0.9: WIDE_BLOCKS[0.9]}, (1,), "bfloat16"),
)
