"""Partial results are added up in a fixed order, so that equal inputs give equal bits."""

import triton
import triton.language as tl

from sparsekit.kernels.triton.programs.activation import activate


@triton.jit
def put(total, output, token, bias, y, batch, rows, ACTIVATION: tl.constexpr):
    """Finish and store the sums ``total``, ``(outputs, tokens)``, of this block's part."""
    if bias is not None:
        total += tl.load(bias + output, mask=output < rows, other=0.0).to(tl.float32)[:, None]
    total = activate(total, ACTIVATION)
    there = (output[:, None] < rows) & (token[None, :] < batch)
    part = tl.program_id(2) * batch * rows
    tl.store(y + part + token[None, :] * rows + output[:, None], total.to(y.dtype.element_ty), mask=there)


@triton.jit
def add(parts, bias, y, count, row, PARTS: tl.constexpr, ELEMENTS: tl.constexpr, ACTIVATION: tl.constexpr):
    """Add up ``PARTS`` results of ``count`` numbers in rows of ``row``, and a bias to each row."""
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    there = at < count
    total = tl.load(parts + at, mask=there, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts + part * tl.cast(count, tl.int64) + at, mask=there, other=0.0)
    if bias is not None:
        total += tl.load(bias + at % row, mask=there, other=0.0).to(tl.float32)
    tl.store(y + at, activate(total, ACTIVATION).to(y.dtype.element_ty), mask=there)
