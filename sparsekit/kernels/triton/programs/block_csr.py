"""Block CSR: tokens are the rows of a matrix instruction and outputs its columns, so that narrow blocks fill it too.

The blocks of one band of outputs are read as one matrix, their inputs below each other. A step reads ``INNER`` of them:
a part of a block, a block, or several whole ones.
"""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.activation import activate


@triton.jit(do_not_specialize=["batch", "group"])
def multiply(
    x, values, indices, positions, offsets, order, bias, y,
    batch, rows, columns, x_stride, group,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INNER: tl.constexpr, OUTER_SIDE: tl.constexpr,
    INNER_SIDE: tl.constexpr, TRANSPOSED: tl.constexpr, EVEN: tl.constexpr, SPLITS: tl.constexpr,
    PERSISTENT: tl.constexpr, PRECISION: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Tiles of ``y``, ``TOKENS`` by ``OUTPUTS``: one, or every n-th where blocks of threads persist.

    ``offsets`` says where the blocks of each band of ``OUTER_SIDE`` outputs begin in ``indices``, which names their
    bands of inputs, and in ``positions``, which says where they are stored; None where they are stored in this order.
    With ``SPLITS``, ``y`` has room for as many partial results, and bias and activation are left to ``partial.add``.
    """
    parts: tl.constexpr = OUTER_SIDE // OUTPUTS
    high = tl.cdiv(rows, OUTER_SIDE) * parts
    wide = tl.cdiv(batch, TOKENS)
    last = high * wide * SPLITS if PERSISTENT else tl.program_id(0) + 1
    step = tl.num_programs(0) if PERSISTENT else 1
    for number in range(tl.program_id(0), last, step):
        at, token = _tile(number // SPLITS, high, wide, group)
        band = tl.load(order + at // parts)
        first = tl.load(offsets + band).to(tl.int32) * INNER_SIDE
        end = tl.load(offsets + band + 1).to(tl.int32) * INNER_SIDE
        if SPLITS > 1:
            share = tl.cdiv(tl.cdiv(end - first, INNER), SPLITS) * INNER
            first += number % SPLITS * share
            end = tl.minimum(end, first + share)
        token = token * TOKENS + tl.arange(0, TOKENS)
        part = at % parts * OUTPUTS + tl.arange(0, OUTPUTS)
        total = _sum(
            x + tl.minimum(token, batch - 1).to(tl.int64) * x_stride, values, indices, positions, first, end, part,
            columns, TOKENS, OUTPUTS, INNER, OUTER_SIDE, INNER_SIDE, TRANSPOSED, EVEN, PRECISION,
        )  # fmt: skip
        output = band * OUTER_SIDE + part
        if bias is not None and SPLITS == 1:
            total += tl.load(bias + output, mask=output < rows, other=0.0).to(tl.float32)[None, :]
        if SPLITS == 1:
            total = activate(total, ACTIVATION)
        there = (token[:, None] < batch) & (output[None, :] < rows)
        row = token + tl.cast(number % SPLITS, tl.int64) * batch
        tl.store(y + row[:, None] * rows + output[None, :], total.to(y.dtype.element_ty), mask=there)


@triton.jit
def _tile(number, high, wide, group):
    """Which tile is the ``number``th: tiles of ``group`` tokens tiles share what the caches hold of ``x``."""
    before = number // (high * group) * group
    number = number % (high * group)
    beside = tl.minimum(wide - before, group)
    return number // beside, before + number % beside


@triton.jit
def _sum(
    x_rows, values, indices, positions, first, end, part, columns,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INNER: tl.constexpr, OUTER_SIDE: tl.constexpr,
    INNER_SIDE: tl.constexpr, TRANSPOSED: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The products of some tokens and the stored inputs from ``first`` to ``end`` of one band."""
    inner = tl.arange(0, INNER)
    if TRANSPOSED:
        weights = values + part[None, :] * INNER_SIDE
    else:
        weights = values + part[None, :]
    total = tl.zeros((TOKENS, OUTPUTS), dtype=tl.float32)
    band, block = _blocks(indices, positions, first, end, INNER_SIDE, INNER)
    for step in range(first, end, INNER):
        column = _within(band * INNER_SIDE, step, INNER_SIDE, INNER)
        if TRANSPOSED:
            stored = _within(block * (INNER_SIDE * OUTER_SIDE), step, INNER_SIDE, INNER)
        else:
            stored = (step + inner) * OUTER_SIDE
        # What the next step reads is known before it begins, so that its loads wait for no other.
        band, block = _blocks(indices, positions, step + INNER, end, INNER_SIDE, INNER)
        if INNER > INNER_SIDE:
            there = step + inner < end
            read = tl.load(x_rows[:, None] + column[None, :], mask=(there & (column < columns))[None, :], other=0.0)
            weight = tl.load(weights + stored[:, None], mask=there[:, None], other=0.0)
        elif EVEN:
            read = tl.load(x_rows[:, None] + column[None, :])
            weight = tl.load(weights + stored[:, None])
        else:
            read = tl.load(x_rows[:, None] + column[None, :], mask=(column < columns)[None, :], other=0.0)
            weight = tl.load(weights + stored[:, None])
        total = tl.dot(read, weight, total, input_precision=PRECISION)
    return total


@triton.jit
def _blocks(indices, positions, step, end, SIDE: tl.constexpr, INNER: tl.constexpr):
    """The band of inputs and the position of the blocks of a step: numbers, or one for each of its inputs."""
    if INNER > SIDE:
        step += tl.arange(0, INNER)
    band = tl.load(indices + step // SIDE, mask=step < end, other=0)
    if positions is not None:
        block = tl.load(positions + step // SIDE, mask=step < end, other=0)
    else:
        block = step // SIDE
    return band, block


@triton.jit
def _within(begin, step, SIDE: tl.constexpr, INNER: tl.constexpr):
    """Where the inputs of a step stand that belong to blocks which begin at ``begin``."""
    if INNER > SIDE:
        place = tl.max_contiguous(tl.multiple_of(begin + tl.arange(0, INNER) % SIDE, SIDE), SIDE)
    else:
        place = begin + tl.multiple_of(step % SIDE, INNER) + tl.arange(0, INNER)
    return place
