"""N:M on the CPU, fp32, for few tokens."""

from __future__ import annotations

from sparsekit.formats import NMPacked
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension

MOST_ROWS = 4
"""Tokens up to which a pass over the weight for every two of them is worth it."""

LANES = 16
"""Kept weights in one vector: ``kNmLanes``."""

MOST_REACH = 64
"""Columns that the weights of one vector may span, so that their activations fit in registers."""


def reach(n: int, m: int) -> int:
    """Return the columns that ``LANES`` consecutive kept weights span at most: those of all groups they touch."""
    return m * max(((c + 1) * LANES - 1) // n - c * LANES // n + 1 for c in range(n))


def _bind(packed: Format, activation: str = "none") -> Multiply:
    assert isinstance(packed, NMPacked)
    packed = extension.laid_out(packed)
    native = extension.build(
        "Nm",
        *(packed.rows, packed.columns, packed.n, packed.m),
        *map(extension.memory, (packed.values, packed.positions, packed.tail)),
    )
    return extension.multiply_with(native, packed.rows, activation)


def _refuses(problem: Problem) -> Refusal | None:
    packed = problem.packed
    assert isinstance(packed, NMPacked)
    if reason := extension.refuses(problem):
        return reason
    if reach(packed.n, packed.m) > MOST_REACH:
        return Refusal(
            f"it runs N:M whose {LANES} consecutive weights lie within {MOST_REACH} columns; CSR runs others"
        )
    if problem.batch > MOST_ROWS:
        return Refusal(f"it runs batches up to {MOST_ROWS}, not {problem.batch}")
    return None


NM_MV = Kernel("nm_mv_native", NMPacked, _refuses, _bind, ACTIVATIONS, adds_residual=True)
"""Cost: 4 bytes per kept weight, and 2 bits where m is at most 4 and n divides 16, else 8; bound by memory at batch 1.
The weight is copied into the order in which it is read."""
