"""Block CSR on the CPU, fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import GradientKernel, Gradients, Kernel, Multiply, Problem, rows_contiguous
from sparsekit.kernels.native import extension

LEAST_ROWS = 4
"""Rows of a block from which the native gradients beat the dense ones: vectors run along the rows."""


def places_of(packed: BlockCSR) -> tuple[int, ...]:
    """The sizes, addresses and flags of ``BlockPlaces`` for a weight whose parts are contiguous."""
    return (
        *(packed.rows, packed.columns, packed.block_rows, packed.block_columns, packed.values.shape[0]),
        *(extension.pointer(packed.block_indices), extension.pointer(packed.block_offsets)),
        packed.block_offsets.dtype == torch.int64,
    )


def _bind(packed: Format, activation: str = "none") -> Multiply:
    assert isinstance(packed, BlockCSR)
    packed = extension.laid_out(packed)
    values = extension.on_cache_line(packed.values)
    places = extension.build("BlockPlaces", *places_of(packed))
    native = extension.build("BlockCsr", places, extension.pointer(values))
    return extension.multiply_with(native, packed.rows, activation, values, packed.block_indices)


def _bind_gradients(packed: Format, places: dict[str, Tensor]) -> Gradients:
    assert isinstance(packed, BlockCSR)
    laid_out = extension.laid_out(packed)
    native = extension.build("BlockGrad", extension.build("BlockPlaces", *places_of(laid_out)))

    def of_x(grad: Tensor) -> Tensor:
        grad = rows_contiguous(grad)
        x = grad.new_empty((grad.shape[0], laid_out.columns))
        native.spread(grad.data_ptr(), grad.stride(0), grad.shape[0], extension.pointer(laid_out.values), x.data_ptr())
        return x

    def of_part(grad: Tensor, x: Tensor, name: str) -> Tensor:
        assert name == "values"
        grad, x = rows_contiguous(grad), rows_contiguous(x)
        values = grad.new_empty(laid_out.values.shape)
        native.sample(grad.data_ptr(), grad.stride(0), x.data_ptr(), x.stride(0), x.shape[0], values.data_ptr())
        return values

    return Gradients(of_x, of_part)


def _refuses_gradients(problem: Problem) -> Refusal | None:
    assert isinstance(problem.packed, BlockCSR)
    if problem.packed.block_rows < LEAST_ROWS:
        return Refusal(f"it runs blocks of at least {LEAST_ROWS} rows, not of {problem.packed.block_rows}")
    return extension.refuses(problem)


BLOCK_CSR_MM = Kernel("block_csr_mm_native", BlockCSR, extension.refuses, _bind, ACTIVATIONS, adds_residual=True)
"""Cost: 2 FLOP per stored weight and token, near the machine's peak where blocks fill a vector of outputs."""

BLOCK_CSR_GRADIENTS = GradientKernel("block_csr_gradients_native", BlockCSR, _refuses_gradients, _bind_gradients)
"""Cost: 2 FLOP per stored weight and token for each of the two gradients. Nothing is derived from the values, so that
their change in every step costs nothing."""
