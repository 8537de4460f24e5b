"""The bitmask format on the CPU, for few tokens: fp32, and bfloat16 with sums in fp32."""

from __future__ import annotations

from functools import partial

import torch

from sparsekit.formats import Bitmask
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension

MOST_ROWS = 4
"""Tokens that share one decoding of the weight."""

MOST_ROWS_BF16 = 32
"""Tokens up to which two decodings at most, each shared by half of the tokens, beat the dense product."""


def _bind(native: str, packed: Format, activation: str = "none") -> Multiply:
    """Bind ``packed`` to the native class of that name."""
    assert isinstance(packed, Bitmask)
    packed = extension.laid_out(packed)
    weight = extension.build(
        native,
        packed.rows,
        packed.columns,
        packed.values.numel(),
        extension.memory(packed.values),
        extension.memory(packed.bits),
        extension.memory(packed.row_offsets),
        packed.row_offsets.dtype == torch.int64,
    )
    return extension.multiply_with(weight, packed.rows, activation, packed.values, packed.bits)


def _refuses(problem: Problem) -> Refusal | None:
    if problem.batch > MOST_ROWS:
        return extension.refuses(problem) or Refusal(f"it runs batches up to {MOST_ROWS}, not {problem.batch}")
    return extension.refuses(problem)


def _refuses_bf16(problem: Problem) -> Refusal | None:
    if reason := extension.refuses(problem, torch.bfloat16):
        return reason
    if problem.batch > MOST_ROWS_BF16:
        return Refusal(f"it runs batches up to {MOST_ROWS_BF16}, not {problem.batch}")
    if extension.isa_of("bitmask_half") == "scalar":
        return Refusal("it decodes with AVX-512 VBMI2 or BITALG, which the processor or SPARSEKIT_ISA does not offer")
    return None


BITMASK_MV = Kernel("bitmask_mv_native", Bitmask, _refuses, partial(_bind, "Bitmask"), ACTIVATIONS, adds_residual=True)
"""Cost: 4 bytes per kept weight and 1 bit per weight; the decoding costs the same at every sparsity.
The weight is copied into the order in which it is read: a word of bits for sixteen rows of one column."""

BITMASK_MM_BF16 = Kernel(
    "bitmask_mm_native_bf16", Bitmask, _refuses_bf16, partial(_bind, "BitmaskHalf"), ACTIVATIONS, adds_residual=True
)
"""Cost: 2 bytes per kept weight and 1 bit per weight; per 32 weights, kept or not, one decoding for up to 16 tokens and
one multiply-add a token. The weight is copied into the order in which it is read."""
