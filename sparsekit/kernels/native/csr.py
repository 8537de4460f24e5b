"""CSR on the CPU, fp32: dot products for few tokens, panels of tokens for many."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from sparsekit.formats import CSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension

MOST_ROWS = 4
"""Tokens up to which one dot product a token beats a panel."""


def parts_of(packed: CSR) -> tuple[Any, ...]:
    """The sizes, buffers and flags of ``CsrParts`` for a weight whose parts are contiguous."""
    return (
        *(packed.rows, packed.columns, packed.values.numel()),
        *(extension.memory(packed.values), extension.memory(packed.column_indices)),
        packed.column_indices.dtype == torch.int32,
        *(extension.memory(packed.row_offsets), packed.row_offsets.dtype == torch.int64),
    )


def _bind(native: str, packed: Format, activation: str = "none") -> Multiply:
    """Bind ``packed`` to the native class of that name."""
    assert isinstance(packed, CSR)
    packed = extension.laid_out(packed)
    weight = extension.build(native, *parts_of(packed))
    return extension.multiply_with(weight, packed.rows, activation, packed.values, packed.column_indices)


def _refuses_rows(problem: Problem) -> Refusal | None:
    if problem.batch > MOST_ROWS:
        return extension.refuses(problem) or Refusal(f"it runs batches up to {MOST_ROWS}, not {problem.batch}")
    return extension.refuses(problem)


def _refuses_panels(problem: Problem) -> Refusal | None:
    if problem.batch == 1:
        return extension.refuses(problem) or Refusal("it runs panels of tokens, and one token makes none")
    return extension.refuses(problem)


CSR_MV = Kernel("csr_mv_native", CSR, _refuses_rows, partial(_bind, "CsrRows"), ACTIVATIONS, adds_residual=True)
"""Cost: 2 FLOP per kept weight and token. Up to two tokens with AVX-512: 5 bytes per place in windows, which have 1.03
(half zeros) to 1.6 (95 %) places for a kept weight; bound by picking activations from registers, a quarter of a cycle
per place and token. Otherwise 6 bytes per kept weight; bound by loads of activations, one for a kept weight and up to
four tokens. The weight is copied into the order in which it is read, unless its rows are too uneven."""

# It finishes its result in narrow strips: a residual read by strips costs more than one pass over it afterwards.
CSR_MM = Kernel("csr_mm_native", CSR, _refuses_panels, partial(_bind, "CsrPanels"), ACTIVATIONS)
"""Cost: 2 FLOP per kept weight and token; one vector load from the first-level cache per vector multiply-add, and half
of it where the row beside keeps the column too. The weight is copied into the order in which it is read: once for
narrow panels and once for wide ones, each when the first batch of such a size comes."""
