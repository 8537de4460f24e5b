"""Convolution as a product of implied matrices: pixels are the rows of a matrix instruction, outputs its columns."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.activation import activate


@triton.jit(do_not_specialize=["pixels", "tiles", "height", "width", "high", "wide", "top", "left"])
def convolve(
    x, values, pieces, offsets, firsts, bias, y,
    pixels, tiles, height, width, high, wide, rows, channels, x_image, x_row, x_column,
    down, across, dilation_down, dilation_across, top, left,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
    INNER: tl.constexpr, PIECE: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One tile of ``y``: ``TOKENS`` pixels by ``OUTPUTS`` channels, over the pieces that these outputs read.

    With ``SPLITS`` over a part of them: ``y`` ``(SPLITS, pixels, rows)`` then takes the sums of each part.
    """
    tile = tl.program_id(0) % tiles
    pixel = tl.program_id(0) // tiles * TOKENS + tl.arange(0, TOKENS)
    start, seen = _places(
        pixel, pixels, height, width, high, wide, x_image, x_row, x_column, down, across,
        dilation_down, dilation_across, top, left, KERNEL_HEIGHT, KERNEL_WIDTH, ALIGNMENT,
    )  # fmt: skip
    inner, own = tl.arange(0, INNER), tl.arange(0, OUTPUTS)
    block = inner[:, None] + own[None, :] * INNER
    begin, end = tl.load(offsets + tile), tl.load(offsets + tile + 1)
    if SPLITS > 1:
        split, count = tl.program_id(1), end - begin
        begin, end = begin + count * split // SPLITS, begin + count * (split + 1) // SPLITS
        y += split.to(tl.int64) * pixels * rows
    pieces += inner // PIECE
    piece = tl.load(pieces + begin * (INNER // PIECE))
    total = tl.zeros((TOKENS, OUTPUTS), dtype=tl.float32)
    for step in range(begin, end):
        tap_row, tap_column, channel = piece >> 27, (piece >> 23) & 15, (piece & 0x7FFFFF) + inner % PIECE
        # Loaded a step ahead: the reads of x wait for it.
        piece = tl.load(pieces + (step + 1) * (INNER // PIECE))
        wanted = tl.max_constancy((1 << tap_row) | (65536 << tap_column), PIECE)
        there = (seen[:, None] & wanted[None, :]) == wanted[None, :]
        if ALIGNMENT < PIECE:
            there = there & tl.max_constancy(channel < channels, ALIGNMENT)[None, :]
        shift = tap_row * (dilation_down * x_row) + tap_column * (dilation_across * x_column) + channel
        shift = tl.max_contiguous(tl.multiple_of(shift, ALIGNMENT), ALIGNMENT)
        read = tl.load(x + (start[:, None] + shift[None, :]), mask=there, other=0.0)
        weight = tl.load(values + step * (INNER * OUTPUTS) + block)
        total = tl.dot(read, weight, total, input_precision=PRECISION)
    output = tl.load(firsts + tile) + own
    if bias is not None:
        total += tl.load(bias + output, mask=output < rows, other=0.0).to(tl.float32)[None, :]
    total = activate(total, ACTIVATION)
    there = (pixel[:, None] < pixels) & (output[None, :] < rows)
    tl.store(y + (pixel[:, None] * rows + output[None, :]), total.to(y.dtype.element_ty), mask=there)


@triton.jit
def _places(
    pixel, pixels, height, width, high, wide, x_image, x_row, x_column,
    down, across, dilation_down, dilation_across, top, left,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    """Where in ``x`` each pixel's first tap reads, and which taps fall onto the image.

    Bit ``r`` is that of the taps of row ``r``, bit ``16 + c`` that of column ``c``; none is set past the last pixel.
    """
    image, place = pixel // (high * wide), pixel % (high * wide)
    row, column = place // wide * down - top, place % wide * across - left
    seen = tl.zeros_like(pixel)
    for tap in tl.static_range(KERNEL_HEIGHT):
        at = row + tap * dilation_down
        seen |= ((at >= 0) & (at < height)).to(tl.int32) << tap
    for tap in tl.static_range(KERNEL_WIDTH):
        at = column + tap * dilation_across
        seen |= ((at >= 0) & (at < width)).to(tl.int32) << (16 + tap)
    # Said here: the compiler forgets what is said of a function's result.
    start = tl.multiple_of(image * x_image + row * x_row + column * x_column, ALIGNMENT)
    return start, tl.where(pixel < pixels, seen, 0)
