"""Delta CSR: a lane reads eight values and their distances, and fetches eight inputs from the first-level cache."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.chunks import eight_of_words, zeros
from sparsekit.kernels.triton.programs.partial import put


@triton.jit
def multiply_few(
    x, values, distances, first_columns, offsets, bias, y,
    batch, rows, x_stride,
    BITS: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, LANES: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``: the lanes take the chunks of a row side by side."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.minimum(output, rows - 1)
    begin, end = tl.load(offsets + row).to(tl.int32), tl.load(offsets + row + 1).to(tl.int32)
    steps = tl.cdiv(tl.cdiv(tl.max(end - begin), LANES), tl.num_programs(2))
    first = tl.program_id(2) * steps * LANES
    totals = zeros(TOKENS, LANES, OUTPUTS)
    for start in range(first, first + steps * LANES, LANES):
        chunk = tl.max_contiguous((begin + start)[None, :] + tl.arange(0, LANES)[:, None], (1, 1))
        left = end[None, :] - chunk
        weight = eight_of_words(values, chunk, left, x.dtype.element_ty, LANES, OUTPUTS)
        column = tl.load(first_columns + chunk, mask=left > 0, other=0).to(tl.int32)
        if first_columns.dtype.element_ty == tl.int16:
            column = column & 0xFFFF
        word = tl.load(distances + chunk * (BITS // 4), mask=left > 0, other=0)
        for at in tl.static_range(8):
            if at * BITS == 32:
                word = tl.load(distances + chunk * 2 + 1, mask=left > 0, other=0)
            column += (word >> (at * BITS % 32)) & ((1 << BITS) - 1)
            sums = ()
            for of in tl.static_range(TOKENS):
                read_from = x + tl.minimum(tl.program_id(1) * TOKENS + of, batch - 1) * x_stride
                sums = sums + (totals[of] + weight[at] * tl.load(read_from + column).to(tl.float32),)
            totals = sums
    for of in tl.static_range(TOKENS):
        token = tl.program_id(1) * TOKENS + of + tl.arange(0, 1)
        put(tl.sum(totals[of], axis=0)[:, None], output, token, bias, y, batch, rows, ACTIVATION)
