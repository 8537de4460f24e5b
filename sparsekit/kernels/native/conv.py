"""Sparse convolution on the CPU over panels of shifted rows; ``csrc/kernels/conv_panel.h`` says how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekit.formats import CSR, BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Multiply
from sparsekit.kernels.convolution import ACTIVATIONS, ConvKernel, Convolution, ConvProblem
from sparsekit.kernels.native import extension
from sparsekit.kernels.native.block_csr import places_of
from sparsekit.kernels.native.csr import parts_of

MOST_SIDE = 16
"""Rows, and columns, of the largest kernel: ``kMostKernelSide``."""

MOST_LINES = 128
"""Lines that one kernel column takes in a panel, at most: ``kMostColumnLines``."""

PANEL_ROWS = 8
"""Output rows of the highest panels: ``kMostPanelRows``."""

LEAST_ROWS = 2
"""Rows of a block from which bfloat16 has a kernel: it shares each pair of input channels between outputs."""


def _shape_of(convolution: Convolution) -> Any:
    done = convolution
    return extension.build(
        "ConvShape",
        done.in_channels,
        done.groups,
        done.kernel_size,
        done.stride,
        done.dilation,
        done.padding,
        ACTIVATIONS.index(done.activation),
    )


def _bind_csr(packed: Format, convolution: Convolution) -> Multiply:
    assert isinstance(packed, CSR)
    packed = extension.laid_out(packed)
    native = extension.build("ConvCsr", *parts_of(packed), _shape_of(convolution))
    return _convolve_with(native, packed.rows, convolution)


def _bind_blocks(packed: Format, convolution: Convolution) -> Multiply:
    assert isinstance(packed, BlockCSR)
    packed = extension.laid_out(packed)
    places = extension.build("BlockPlaces", *places_of(packed))
    narrow = packed.values.dtype == torch.bfloat16
    native = extension.build("ConvBlocks", places, extension.memory(packed.values), narrow, _shape_of(convolution))
    return _convolve_with(native, packed.rows, convolution)


def _convolve_with(native: Any, rows: int, convolution: Convolution) -> Multiply:
    """Wrap a native weight, which is a copy of the packed one, as ``run(x, bias)``."""
    call = native.multiply

    def run(x: Tensor, bias: Tensor | None) -> Tensor:
        batch, _, height, width = x.shape
        if x.stride(3) != 1 or x.is_neg():
            x = x.resolve_neg().contiguous()
        y = x.new_empty((batch, rows, *convolution.output_size(height, width)))
        if bias is not None:
            bias = bias.resolve_neg().float().contiguous()
        place = 0 if bias is None else bias.data_ptr()
        call(x.data_ptr(), (batch, height, width), x.stride()[:3], place, y.data_ptr())
        return y

    return run


def _most_lines(convolution: Convolution) -> int:
    """Lines of a kernel column in the highest panels: ``ConvShape::most_column_lines``."""
    high, step = convolution.kernel_size[0], convolution.stride[0]
    return min(step, high) * (PANEL_ROWS + (high - 1) * convolution.dilation[0] // step)


def _refuses(problem: ConvProblem, *dtypes: torch.dtype) -> Refusal | None:
    done = problem.convolution
    if reason := extension.refuses(problem, *dtypes):
        return reason
    if max(done.kernel_size) > MOST_SIDE:
        return Refusal(f"it runs kernels up to {MOST_SIDE} x {MOST_SIDE}, not {done.kernel_size}")
    if _most_lines(done) > MOST_LINES:
        return Refusal(f"it runs kernels that reach down less far than {done.kernel_size} dilated by {done.dilation}")
    if done.in_channels == 0 or problem.packed.rows == 0:
        return Refusal("it needs channels to read and to write")
    if done.groups > 1 and done.in_channels == done.groups:
        return Refusal("in a depthwise convolution every output reads one channel: its rows cost more than zeros save")
    return None


def _refuses_groups(problem: ConvProblem) -> Refusal | None:
    assert isinstance(problem.packed, BlockCSR)
    if problem.convolution.groups > 1:
        return Refusal("it runs convolutions of one group; CSR runs several")
    if problem.dtype == torch.bfloat16 and problem.packed.block_rows < LEAST_ROWS:
        return Refusal(f"in bfloat16 it runs blocks of at least {LEAST_ROWS} rows, not of {problem.packed.block_rows}")
    return _refuses(problem, torch.float32, torch.bfloat16)


CSR_CONV = ConvKernel("csr_conv_native", CSR, _refuses, _bind_csr)
"""Cost: 2 FLOP per kept weight and pixel; one vector load from the first-level cache per vector multiply-add. Each
input is copied once per kernel column. The weight is copied into the order in which it is read."""

BLOCK_CSR_CONV = ConvKernel("block_csr_conv_native", BlockCSR, _refuses_groups, _bind_blocks)
"""Cost: 2 FLOP per stored weight and pixel. Whole 3 x 3 kernels load each input row once for the three output rows that
read it, blocks of 4 and more rows once for all four: both near the machine's peak. The copies are those of CSR."""
