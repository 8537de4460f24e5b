"""Block CSR: tokens are the rows of a matrix instruction and outputs its columns, so that narrow blocks fill it too."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.activation import activate


@triton.jit
def multiply(
    x, values, indices, offsets, bias, y,
    batch, rows, columns, x_stride,
    TOKENS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``: ``TOKENS`` tokens by the outputs of one block row."""
    block_row = tl.program_id(0)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    output = block_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inner = tl.arange(0, BLOCK_COLUMNS)
    block = inner[:, None] * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
    total = tl.zeros((TOKENS, BLOCK_ROWS), dtype=tl.float32)
    for at in range(tl.load(offsets + block_row), tl.load(offsets + block_row + 1)):
        column = tl.load(indices + at) * BLOCK_COLUMNS + inner
        there = (token[:, None] < batch) & (column[None, :] < columns)
        read = tl.load(x + token[:, None] * x_stride + column[None, :], mask=there, other=0.0)
        weight = tl.load(values + at * (BLOCK_ROWS * BLOCK_COLUMNS) + block)
        total = tl.dot(read, weight, total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + output, mask=output < rows, other=0.0).to(tl.float32)[None, :]
    there = (token[:, None] < batch) & (output[None, :] < rows)
    total = activate(total, ACTIVATION)
    tl.store(y + token[:, None] * rows + output[None, :], total.to(y.dtype.element_ty), mask=there)
