"""Sums that several blocks of threads share: each stores its part, and a second program adds up the parts in order."""

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
def add_up(parts, bias, y, size, rows, splits, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr):
    """``y`` from its ``splits`` parts, ``(splits, batch, rows)`` in float32; ``size`` is ``batch * rows``."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(splits):
        total += tl.load(parts + part * size + place, mask=there, other=0.0)
    if bias is not None:
        total += tl.load(bias + place % rows, mask=there, other=0.0).to(tl.float32)
    tl.store(y + place, activate(total, ACTIVATION).to(y.dtype.element_ty), mask=there)
