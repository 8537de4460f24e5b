"""Bitmask: a lane reads the byte of eight columns, and in 16-byte loads the one or two chunks that hold its values."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.chunks import eight, low, run, side_by_side, zeros
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
        bits = eight_columns(values, maps, starts, row[None, :] * tiles + tile, lane, x.dtype.element_ty, OUTPUTS)
        column = tile * 256 + lane * 8
        sums = ()
        for of in tl.static_range(TOKENS):
            read_from = x + tl.minimum(tl.program_id(1) * TOKENS + of, batch - 1) * x_stride
            read = eight(read_from + column, columns - column, 32, 1)
            total = totals[of]
            for at in tl.static_range(8):
                total += number(bits[at], x.dtype.element_ty) * read[at].to(tl.float32)
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
        bits = eight_columns(values, maps, starts, row[None, :] * tiles + tile, lane, x.dtype.element_ty, OUTPUTS)
        column = tile * 256 + tl.arange(0, 256)[:, None]
        read = tl.load(read_from + column, mask=column < columns, other=0.0)
        weight = side_by_side(bits, 32, OUTPUTS)
        if read.dtype != tl.float32:
            weight = weight.to(tl.int16)
        total = tl.dot(weight.to(read.dtype, bitcast=True), read, total, input_precision=PRECISION)
    put(total, output, token, bias, y, batch, rows, ACTIVATION)


@triton.jit
def eight_columns(values, maps, starts, tile, lane, DTYPE: tl.constexpr, OUTPUTS: tl.constexpr):
    """The bits of the eight columns of each lane in each row's ``tile`` of 256, zeros included, in eight tensors.

    What the upper half holds of a half is undefined.
    """
    byte = tl.load(maps + tl.max_contiguous(tile * 32 + lane, (1, 1))).to(tl.int32) & 0xFF
    pairs = byte - ((byte >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    count = (fours + (fours >> 4)) & 0xF
    place = tl.load(starts + tile) + tl.cumsum(count, axis=0) - count
    stored = eight_from(values, place, count, DTYPE, OUTPUTS)
    rank = tl.zeros_like(byte)
    columns = ()
    for at in tl.static_range(8):
        bit = (byte >> at) & 1
        columns = columns + (ranked(stored, rank, at) & -bit,)
        rank += bit
    return columns


@triton.jit
def eight_from(values, place, count, DTYPE: tl.constexpr, OUTPUTS: tl.constexpr):
    """The first ``count`` values, at most eight, from any ``place`` on, as words; others are undefined.

    They lie in one chunk or in two that follow each other.
    """
    WORDS: tl.constexpr = 8 if DTYPE == tl.float32 else 4
    at = values + (place >> 3) * WORDS
    one, two = (count > 0).to(tl.int32) * WORDS, ((place & 7) + count > 8).to(tl.int32) * WORDS
    words = words_of(at, one, WORDS, OUTPUTS) + words_of(at + WORDS, two, WORDS, OUTPUTS)
    words = moved(words, place & 4 != 0, WORDS // 2)
    words = moved(words, place & 2 != 0, WORDS // 4)
    if WORDS == 8:
        return moved(words, place & 1 != 0, 1)
    else:
        halves = ()
        for word in tl.static_range(4):
            halves = halves + ((joined(words[word], words[word + 1]) >> (place & 1) * 16).to(tl.int32),)
        return halves


@triton.jit
def words_of(at, left, WORDS: tl.constexpr, OUTPUTS: tl.constexpr):
    """The words of each chunk that begins at ``at``, in 16-byte loads; 0 where ``left`` is 0."""
    if WORDS == 8:
        return eight(at, left, 32, OUTPUTS)
    else:
        return run(at, left, WORDS, 32, OUTPUTS)


@triton.jit
def moved(words, there, STEP: tl.constexpr):
    """All words but the first ``STEP`` where ``there``, else all but the last."""
    found = ()
    for at in tl.static_range(len(words) - STEP):
        found = found + (tl.where(there, words[at + STEP], words[at]),)
    return found


@triton.jit
def ranked(stored, rank, MOST: tl.constexpr):
    """The bits of the value at ``rank``, at most ``MOST``, of eight in as many words or in four."""
    if len(stored) > 4:
        found = stored[0]
        for at in tl.static_range(MOST):
            found = tl.where(rank > at, stored[at + 1], found)
        return found
    else:
        pair = joined(stored[0], stored[1])
        if MOST > 3:
            pair = tl.where(rank > 3, joined(stored[2], stored[3]), pair)
        return (pair >> (rank & 3) * 16).to(tl.int32)


@triton.jit
def joined(first, second):
    """Two words as one of 64 bits."""
    return (second.to(tl.int64) << 32) | (first.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def number(bits, DTYPE: tl.constexpr):
    """What bits, of a half in the lower half of a word, stand for, as float32."""
    if DTYPE == tl.float32:
        return bits.to(tl.float32, bitcast=True)
    else:
        return low(bits, DTYPE)
