"""Weights in 8 bits on the CPU: activations are rounded to 8 bits token by token, products are exact integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekit.formats import Int8Bitmask, Int8BlockCSR, Int8Dense, Quantized
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, MultiplyAdd, Problem
from sparsekit.kernels.native import extension
from sparsekit.kernels.native.block_csr import places_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_COLUMNS = 2**17
"""Columns whose products still add up in 32 bits: ``kMostColumns``."""
MOST_ROWS = 4
"""Tokens for which one decoding of the weight is shared: ``kInt8MostTokens``."""
STEP = 4
"""Columns that one instruction adds up."""


def _multiply_with(native: Any, packed: Format, activation: str) -> MultiplyAdd:
    """Wrap a native weight; other dtypes than float32 are converted on the way in and out."""
    multiply, dtype = extension.multiply_with(native, packed.rows, activation), packed.dtype
    if dtype == torch.float32:
        return multiply

    def converted(x: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
        wide = (None if tensor is None else tensor.float() for tensor in (bias, residual))
        return multiply(x.float(), *wide).to(dtype)

    return converted


def _scales(packed: Quantized) -> Tensor:
    return packed.scales.float().contiguous()


def _bind_blocks(packed: Format, activation: str = "none") -> MultiplyAdd:
    assert isinstance(packed, Int8BlockCSR)
    packed = extension.laid_out(packed)
    places = extension.build("BlockPlaces", *places_of(packed))
    scales = _scales(packed)
    native = extension.build("Int8BlockCsr", places, extension.memory(packed.values), extension.memory(scales))
    return _multiply_with(native, packed, activation)


def _bind_dense(packed: Format, activation: str = "none") -> MultiplyAdd:
    assert isinstance(packed, Int8Dense)
    packed = extension.laid_out(packed)
    scales, values = _scales(packed), extension.memory(packed.values)
    native = extension.build("Int8BlockCsr", packed.rows, packed.columns, values, extension.memory(scales))
    return _multiply_with(native, packed, activation)


def _bind_bitmask(packed: Format, activation: str = "none") -> MultiplyAdd:
    assert isinstance(packed, Int8Bitmask)
    packed = extension.laid_out(packed)
    scales = _scales(packed)
    native = extension.build(
        "Int8Bitmask",
        *(packed.rows, packed.columns, packed.values.numel()),
        *(extension.memory(packed.values), extension.memory(packed.bits), extension.memory(packed.row_offsets)),
        packed.row_offsets.dtype == torch.int64,
        extension.memory(scales),
    )
    return _multiply_with(native, packed, activation)


def refuses(problem: Problem) -> Refusal | None:
    """Return why no native kernel of 8-bit weights runs ``problem``, or None."""
    if problem.packed.columns > MOST_COLUMNS:
        return Refusal(f"it runs weights of up to {MOST_COLUMNS} columns, not of {problem.packed.columns}")
    return extension.refuses(problem, *DTYPES)


def _refuses_blocks(problem: Problem) -> Refusal | None:
    assert isinstance(problem.packed, Int8BlockCSR)
    columns = problem.packed.block_columns
    if columns % STEP:
        return Refusal(f"it runs blocks of a multiple of {STEP} columns, not of {columns}")
    return refuses(problem)


def _refuses_batch(problem: Problem) -> Refusal | None:
    if problem.batch > MOST_ROWS:
        return refuses(problem) or Refusal(f"it runs batches up to {MOST_ROWS}, not {problem.batch}")
    return refuses(problem)


INT8_BLOCK_CSR_MM = Kernel("int8_block_csr_mm_native", Int8BlockCSR, _refuses_blocks, _bind_blocks, ACTIVATIONS, True)
"""Cost: 2 operations per stored weight and token, 128 an instruction where there is VNNI. The weight is copied into the
order in which it is read; 16 outputs fill a vector, and blocks of fewer rows waste the rest."""

INT8_DENSE_MM = Kernel("int8_dense_mm_native", Int8Dense, refuses, _bind_dense, ACTIVATIONS, True)
"""Cost: 2 operations per weight and token; 1 byte per weight, copied into the order in which it is read."""

INT8_BITMASK_MV = Kernel("int8_bitmask_mv_native", Int8Bitmask, _refuses_batch, _bind_bitmask, ACTIVATIONS, True)
"""Cost: 1 byte per kept weight and 1 bit per weight, for all tokens together. The bits are copied into the order in
which they are read."""
