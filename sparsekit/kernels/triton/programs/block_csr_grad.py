"""The gradient of the values of block CSR: a product of two dense matrices, at the stored blocks alone."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["batch", "size"])
def sample(
    x, grad, indices, runs, bands, values,
    batch, rows, columns, size, x_stride, grad_stride,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INNER: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, EVEN: tl.constexpr, FULL: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of ``values``, ``INNER`` inputs by ``OUTPUTS`` outputs: a part of a block, or a run of several blocks.

    ``runs`` says where each run of blocks begins, all of one block row, which ``bands`` names. ``FULL`` says that no
    step of ``TOKENS`` reaches beyond the batch. With ``SPLITS``, ``values`` has room for as many partial results of
    ``size`` numbers.
    """
    high: tl.constexpr = BLOCK_ROWS // OUTPUTS
    wide: tl.constexpr = BLOCK_COLUMNS // INNER if INNER < BLOCK_COLUMNS else 1
    number = tl.program_id(0)
    part = number // SPLITS % (high * wide)
    run = number // (SPLITS * high * wide)
    first = tl.load(runs + run)
    within = part // high * INNER + tl.arange(0, INNER)
    block = first + within // BLOCK_COLUMNS
    stored = block < tl.load(runs + run + 1)
    if INNER > BLOCK_COLUMNS:
        begin = tl.load(indices + block, mask=stored, other=0) * BLOCK_COLUMNS
        column = tl.max_contiguous(tl.multiple_of(begin + within % BLOCK_COLUMNS, BLOCK_COLUMNS), BLOCK_COLUMNS)
    else:
        column = tl.load(indices + first) * BLOCK_COLUMNS + within
    outer = part % high * OUTPUTS + tl.arange(0, OUTPUTS)
    output = tl.load(bands + run) * BLOCK_ROWS + outer
    share = tl.cdiv(tl.cdiv(batch, TOKENS), SPLITS) * TOKENS
    start = number % SPLITS * share
    total = _sum(
        x + column[:, None], grad + output[None, :], start, tl.minimum(start + share, batch),
        column < columns, output < rows, x_stride, grad_stride, TOKENS, OUTPUTS, INNER, EVEN, FULL, PRECISION,
    )  # fmt: skip
    place = (first * BLOCK_COLUMNS + within)[:, None] * BLOCK_ROWS + outer[None, :]
    values += tl.cast(number % SPLITS, tl.int64) * size
    inside = (column < columns)[:, None] & (output < rows)[None, :]
    tl.store(values + place, total.to(values.dtype.element_ty), mask=inside & stored[:, None])
    if not EVEN:
        # Padding is 0 even where an operand is infinite. A choice between the two would be moved up to the products,
        # which then wait for each other.
        tl.store(values + place, tl.zeros_like(total).to(values.dtype.element_ty), mask=~inside & stored[:, None])


@triton.jit
def _sum(
    inputs, outputs, first, end, is_input, is_output, x_stride, grad_stride,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INNER: tl.constexpr, EVEN: tl.constexpr, FULL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The products of some columns of ``x`` and of ``grad``, summed over the tokens from ``first`` to ``end``."""
    total = tl.zeros((INNER, OUTPUTS), dtype=tl.float32)
    for step in range(first, end, TOKENS):
        token = step + tl.arange(0, TOKENS)
        row = token.to(tl.int64)
        if EVEN and FULL:
            left = tl.load(inputs + (row * x_stride)[None, :])
            right = tl.load(outputs + (row * grad_stride)[:, None])
        else:
            there = token < end
            left = tl.load(inputs + (row * x_stride)[None, :], mask=is_input[:, None] & there[None, :], other=0.0)
            right = tl.load(outputs + (row * grad_stride)[:, None], mask=there[:, None] & is_output[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total
