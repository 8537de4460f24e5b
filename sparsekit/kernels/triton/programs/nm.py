"""N:M: a lane reads eight values and their positions, which stand for ``8 M / N`` columns."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.chunks import bits_of, eight, eight_as_bits, eight_of_words, side_by_side, zeros
from sparsekit.kernels.triton.programs.partial import put


@triton.jit
def multiply_few(
    x, values, words, tail, bias, y,
    batch, rows, grouped, x_stride, chunks,
    N: tl.constexpr, M: tl.constexpr, FIELD: tl.constexpr, TAIL: tl.constexpr,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, LANES: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``, on the arithmetic cores: each value picks its input among those of its group."""
    WIDTH: tl.constexpr = 8 * M // N
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.minimum(output, rows - 1)
    steps = tl.cdiv(tl.cdiv(chunks, LANES), tl.num_programs(2))
    first = tl.program_id(2) * steps * LANES
    totals = zeros(TOKENS, LANES, OUTPUTS)
    for start in range(first, tl.minimum(first + steps * LANES, chunks), LANES):
        chunk = start + tl.arange(0, LANES)[:, None]
        place = tl.max_contiguous(row[None, :] * chunks + chunk, (1, 1))  # else a lane gets words of others' chunks
        word = positions_of(words, place, chunk < chunks)
        weight = eight_of_words(values, place, chunks - chunk, x.dtype.element_ty, LANES, OUTPUTS)
        sums = ()
        for of in tl.static_range(TOKENS):
            read_from = x + tl.minimum(tl.program_id(1) * TOKENS + of, batch - 1) * x_stride
            read = ()
            for part in tl.static_range(WIDTH // 8):
                column = chunk * WIDTH + part * 8
                read = read + eight(read_from + column, grouped - column, LANES, 1)
            total = totals[of]
            for at in tl.static_range(8):
                total += weight[at] * picked(read, word, at, N, M, FIELD)
            sums = sums + (total,)
        totals = sums
    for of in tl.static_range(TOKENS):
        token = tl.program_id(1) * TOKENS + of
        total = tl.sum(totals[of], axis=0)
        if TAIL > 0 and tl.program_id(2) == 0:
            step = tl.arange(0, M)[None, :]
            weight = tl.load(tail + row[:, None] * TAIL + step, mask=step < TAIL, other=0.0).to(tl.float32)
            read_from = x + tl.minimum(token, batch - 1) * x_stride
            read = tl.load(read_from + grouped + step, mask=step < TAIL, other=0.0)
            total += tl.sum(weight * read.to(tl.float32), axis=1)
        put(total[:, None], output, token + tl.arange(0, 1), bias, y, batch, rows, ACTIVATION)


@triton.jit
def multiply(
    x, values, words, tail, bias, y,
    batch, rows, grouped, x_stride, chunks,
    N: tl.constexpr, M: tl.constexpr, FIELD: tl.constexpr, TAIL: tl.constexpr,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, LANES: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``, on the tensor cores: the values are put at their places among zeros, in registers.

    Outputs are the rows of the matrix instruction and tokens its columns, of which there may be as few as 8.
    """
    WIDTH: tl.constexpr = 8 * M // N
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    row = tl.minimum(output, rows - 1)
    read_from = x + tl.minimum(token, batch - 1)[None, :] * x_stride
    steps = tl.cdiv(tl.cdiv(chunks, LANES), tl.num_programs(2))
    first = tl.program_id(2) * steps * LANES
    total = tl.zeros((OUTPUTS, TOKENS), dtype=tl.float32)
    for start in tl.range(first, tl.minimum(first + steps * LANES, chunks), LANES, num_stages=STAGES):
        chunk = start + tl.arange(0, LANES)[:, None]
        place = tl.max_contiguous(row[None, :] * chunks + chunk, (1, 1))  # else a lane gets words of others' chunks
        word = positions_of(words, place, chunk < chunks)
        bits = eight_as_bits(values, place, chunks - chunk, LANES, OUTPUTS)
        column = start * WIDTH + tl.arange(0, LANES * WIDTH)[:, None]
        read = tl.load(read_from + column, mask=column < grouped, other=0.0)
        spread = side_by_side(expanded(bits, word, N, M, FIELD), LANES, OUTPUTS)
        if read.dtype != tl.float32:
            spread = spread.to(tl.int16)
        total = tl.dot(spread.to(read.dtype, bitcast=True), read, total, input_precision=PRECISION)
    if TAIL > 0 and tl.program_id(2) == 0:
        step = tl.arange(0, 16)
        weight = tl.load(tail + row[:, None] * TAIL + step[None, :], mask=step[None, :] < TAIL, other=0.0)
        read = tl.load(read_from + grouped + step[:, None], mask=step[:, None] < TAIL, other=0.0)
        total = tl.dot(weight, read, total, input_precision=PRECISION)
    put(total, output, token, bias, y, batch, rows, ACTIVATION)


@triton.jit
def positions_of(words, place, there):
    """The positions of each chunk in one word of 32 bits: its bits are tested with one instruction each."""
    word = tl.load(words + place, mask=there, other=0)
    if words.dtype.element_ty == tl.int16:
        return word.to(tl.int32) & 0xFFFF
    else:
        return word


@triton.jit
def picked(read, word, AT: tl.constexpr, N: tl.constexpr, M: tl.constexpr, FIELD: tl.constexpr):
    """The inputs of the values at ``AT`` of their chunks: by a tree of selections, one bit of the positions a level.

    Positions ascend, so that the ``i``-th value of a group stands at ``i`` to ``M - N + i``.
    """
    LOWEST: tl.constexpr = AT % N
    HIGHEST: tl.constexpr = M - N + AT % N
    level = ()
    for at in tl.static_range(M):
        level = level + (read[AT // N * M + at].to(tl.float32),)
    for bit in tl.static_range(bits_of(M)):
        odd = (word >> (AT * FIELD + bit)) & 1 != 0
        above = ()
        for pair in tl.static_range(len(level) // 2):
            if (2 * pair + 1) << bit > HIGHEST:
                above = above + (level[2 * pair],)
            elif (2 * pair + 1) << bit <= LOWEST:
                above = above + (level[2 * pair + 1],)
            else:
                above = above + (tl.where(odd, level[2 * pair + 1], level[2 * pair]),)
        level = above
    return level[0]


@triton.jit
def expanded(bits, word, N: tl.constexpr, M: tl.constexpr, FIELD: tl.constexpr):
    """The ``8 M / N`` columns of each chunk, zeros included, as bits in 32, like the values' ``bits``.

    By masks and not by selections, whose conditions LLVM gathers into vectors and takes apart again.
    """
    columns = ()
    for column in tl.static_range(8 * M // N):
        found = tl.zeros_like(word)
        for at in tl.static_range(N):
            if (column % M >= at) and (column % M <= M - N + at):
                here = stands_at(word, (column // M * N + at) * FIELD, column % M, at, M - N + at, M)
                found = found | (bits[column // M * N + at] & here)
        columns = columns + (found,)
    return columns


@triton.jit
def stands_at(
    word, SHIFT: tl.constexpr, PLACE: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, M: tl.constexpr
):
    """All bits where the position at bit ``SHIFT``, one of ``LOWEST`` to ``HIGHEST``, is ``PLACE``, else none.

    One bit of the position may be enough to tell.
    """
    here = tl.full(word.shape, -1, tl.int32)
    for bit in tl.static_range(bits_of(M)):
        if telling_bit(PLACE, LOWEST, HIGHEST) == bit or telling_bit(PLACE, LOWEST, HIGHEST) < 0:
            one = word << (31 - SHIFT - bit) >> 31
            here = here & (one if PLACE >> bit & 1 else ~one)
    return here


@triton.constexpr_function
def telling_bit(place, lowest, highest):
    """The bit in which ``place`` differs from all others between the two, or -1."""
    others = [other for other in range(lowest, highest + 1) if other != place]
    return next((bit for bit in range(4) if all((other ^ place) >> bit & 1 for other in others)), -1)
