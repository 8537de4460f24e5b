"""Block CSR on the CPU, bfloat16 with sums in fp32; ``csrc/kernels/block_half.h`` says how."""

from __future__ import annotations

import torch

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension
from sparsekit.kernels.native.block_csr import places_of

MOST_COLUMNS = 2**17
"""Columns of the widest weight: ``kMostHalfColumns``."""


def _bind(packed: Format, activation: str = "none") -> Multiply:
    assert isinstance(packed, BlockCSR)
    packed = extension.laid_out(packed)
    places = extension.build("BlockPlaces", *places_of(packed))
    native = extension.build("BlockHalf", places, extension.pointer(packed.values), False)
    return extension.multiply_with(native, packed.rows, activation)


def _refuses(problem: Problem) -> Refusal | None:
    if problem.packed.columns > MOST_COLUMNS:
        return Refusal(f"it runs weights of up to {MOST_COLUMNS} columns, not of {problem.packed.columns}")
    return extension.refuses(problem, torch.bfloat16)


BLOCK_CSR_MM_BF16 = Kernel("block_csr_mm_native_bf16", BlockCSR, _refuses, _bind, ACTIVATIONS, adds_residual=True)
"""Cost: 2 FLOP per stored weight and token, near the machine's peak where blocks fill a vector of outputs and pairs of
inputs; 2.1 bytes per stored weight where tokens are few. The weight is copied into the order in which it is read."""
