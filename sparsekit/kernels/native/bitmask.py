"""The bitmask format on the CPU, fp32, for few tokens."""

from __future__ import annotations

import torch

from sparsekit.formats import Bitmask
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension

MOST_ROWS = 4
"""Tokens that share one decoding of the weight."""


def _bind(packed: Format, activation: str = "none") -> Multiply:
    assert isinstance(packed, Bitmask)
    packed = extension.laid_out(packed)
    native = extension.build(
        "Bitmask",
        packed.rows,
        packed.columns,
        packed.values.numel(),
        extension.memory(packed.values),
        extension.memory(packed.bits),
        extension.memory(packed.row_offsets),
        packed.row_offsets.dtype == torch.int64,
    )
    return extension.multiply_with(native, packed.rows, activation, packed.values, packed.bits)


def _refuses(problem: Problem) -> Refusal | None:
    if problem.batch > MOST_ROWS:
        return extension.refuses(problem) or Refusal(f"it runs batches up to {MOST_ROWS}, not {problem.batch}")
    return extension.refuses(problem)


BITMASK_MV = Kernel("bitmask_mv_native", Bitmask, _refuses, _bind, ACTIVATIONS, adds_residual=True)
"""Cost: 4 bytes per kept weight and 1 bit per weight; the decoding costs the same at every sparsity.
The weight is copied into the order in which it is read: a word of bits for sixteen rows of one column."""
