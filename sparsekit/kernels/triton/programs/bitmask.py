"""Bitmask: a lane reads the byte of eight columns, and the values follow each other through the first-level cache."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.chunks import eight, side_by_side, zeros
from sparsekit.kernels.triton.programs.partial import put


@triton.jit
def multiply_few(
    x, values, maps, starts, bias, y,
    batch, rows, columns, x_stride, tiles,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``, on the arithmetic cores."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.minimum(output, rows - 1)
    lane = tl.arange(0, 32)[:, None]
    steps = tl.cdiv(tiles, tl.num_programs(2))
    first = tl.program_id(2) * steps
    totals = zeros(TOKENS, 32, OUTPUTS)
    for tile in range(first, tl.minimum(first + steps, tiles)):
        weight = eight_columns(values, maps, starts, row[None, :] * tiles + tile, lane)
        column = tile * 256 + lane * 8
        sums = ()
        for of in tl.static_range(TOKENS):
            read_from = x + tl.minimum(tl.program_id(1) * TOKENS + of, batch - 1) * x_stride
            read = eight(read_from + column, columns - column, 32, 1)
            total = totals[of]
            for at in tl.static_range(8):
                total += weight[at].to(tl.float32) * read[at].to(tl.float32)
            sums = sums + (total,)
        totals = sums
    for of in tl.static_range(TOKENS):
        token = tl.program_id(1) * TOKENS + of + tl.arange(0, 1)
        put(tl.sum(totals[of], axis=0)[:, None], output, token, bias, y, batch, rows, ACTIVATION)


@triton.jit
def multiply(
    x, values, maps, starts, bias, y,
    batch, rows, columns, x_stride, tiles,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``, on the tensor cores: the values are put at their places among zeros, in registers."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    row = tl.minimum(output, rows - 1)
    read_from = x + tl.minimum(token, batch - 1)[None, :] * x_stride
    lane = tl.arange(0, 32)[:, None]
    steps = tl.cdiv(tiles, tl.num_programs(2))
    first = tl.program_id(2) * steps
    total = tl.zeros((OUTPUTS, TOKENS), dtype=tl.float32)
    for tile in range(first, tl.minimum(first + steps, tiles)):
        weight = eight_columns(values, maps, starts, row[None, :] * tiles + tile, lane)
        column = tile * 256 + tl.arange(0, 256)[:, None]
        read = tl.load(read_from + column, mask=column < columns, other=0.0)
        total = tl.dot(side_by_side(weight, 32, OUTPUTS), read, total, input_precision=PRECISION)
    put(total, output, token, bias, y, batch, rows, ACTIVATION)


@triton.jit
def eight_columns(values, maps, starts, tile, lane):
    """The eight columns of each lane in each row's ``tile`` of 256, zeros included, in eight tensors."""
    byte = tl.load(maps + tl.max_contiguous(tile * 32 + lane, (1, 1))).to(tl.int32) & 0xFF
    pairs = byte - ((byte >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    count = (fours + (fours >> 4)) & 0xF
    place = tl.load(starts + tile) + tl.cumsum(count, axis=0) - count
    weight = ()
    for at in tl.static_range(8):
        there = (byte >> at) & 1
        weight = weight + (tl.load(values + place, mask=there != 0, other=0.0),)
        place += there
    return weight
