"""Two of four on the sparse tensor cores, fp16 and bf16: one kernel for few tokens, one for many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels import gpu
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.cuda import extension, tiles
from sparsekit.kernels.cuda.layout import MOST_TAIL, mma_panels, wgmma_panels

MOST_FEW = 64
"""Tokens up to which a tile of many would be mostly empty."""

MOST = 2**31 - 2**10
"""Sizes and tiles below which no 32-bit index of a kernel overflows."""


def refuses_pattern(packed: NMPacked) -> Refusal | None:
    """Return why the sparse tensor cores cannot run the pattern of ``packed``."""
    if (packed.n, packed.m) != (2, 4):
        return Refusal(f"sparse tensor cores multiply 2 of every 4, not {packed.n} of {packed.m}")
    if packed.columns % 4 > MOST_TAIL:
        return Refusal(f"it fits up to {MOST_TAIL} columns that fill no group of 4, not {packed.columns % 4}")
    return None


def refuses_size(rows: int, columns: int, batch: int) -> Refusal | None:
    """Return why an index of a kernel would overflow."""
    if max(rows, columns, batch) > MOST:
        return Refusal(f"its sizes are at most {MOST}, not {rows} x {columns} with batch {batch}")
    # The tiles of 8, 32 and 64 tokens times at most as many parts as there are multiprocessors, and those are few.
    row_tiles, token_tiles = -(-rows // tiles.TILE_ROWS), -(-batch // 8)
    if row_tiles * token_tiles > MOST:
        return Refusal(f"it runs at most {MOST} tiles, not {row_tiles} x {token_tiles}")
    return None


def _refuses(problem: Problem) -> Refusal | None:
    packed = problem.packed
    assert isinstance(packed, NMPacked)
    refusal = refuses_pattern(packed) or extension.refuses(problem)
    return refusal or refuses_size(packed.rows, packed.columns, problem.batch)


def _refuses_few(problem: Problem) -> Refusal | None:
    if refusal := _refuses(problem):
        return refusal
    assert extension.MODULE is not None
    needed = extension.MODULE.mma.shared_bytes(tiles.smallest_tile(problem.batch))
    return extension.refuses_shared_memory(needed, gpu.gpu_of(problem.device))


def _refuses_many(problem: Problem) -> Refusal | None:
    if refusal := _refuses(problem):
        return refusal
    if problem.batch <= MOST_FEW:
        return Refusal(f"it runs batches above {MOST_FEW}, not {problem.batch}")
    assert extension.MODULE is not None
    return extension.refuses_other_than_hopper(gpu.gpu_of(problem.device), extension.MODULE.architectures)


def _bind(
    packed: Format,
    native: str,
    lay_out: Callable[[NMPacked], Tensor],
    choose: Callable[[int, int, int, int], tiles.Tile],
) -> Multiply:
    """Bind ``packed`` to the native multiply of that name, which reads the panels that ``lay_out`` makes."""
    assert isinstance(packed, NMPacked)
    assert extension.MODULE is not None
    rows, columns, device = packed.rows, packed.columns, packed.values.device
    panels = lay_out(packed).contiguous()
    weight = extension.MODULE.NmWeight(panels.data_ptr(), rows, columns, packed.values.dtype == torch.bfloat16)
    call = getattr(weight, native)
    multiprocessors = gpu.gpu_of(device).multiprocessors

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        _ = panels  # its address is in `weight`
        x = extension.readable(x)
        bias = None if bias is None else bias.resolve_neg().contiguous()
        batch = x.shape[0]
        tile = choose(rows, columns, batch, multiprocessors)
        y = x.new_empty((batch, rows))
        partial = x.new_empty((tile.splits, batch, rows), dtype=torch.float32) if tile.splits > 1 else None
        addresses = (x.data_ptr(), batch, x.stride(0), _address(bias), y.data_ptr())
        extension.call(call, device, *addresses, tile.tokens, tile.splits, _address(partial), multiprocessors)
        return y

    return multiply


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


NM_MV_CUDA = Kernel(
    "nm_mv_cuda", NMPacked, _refuses_few, lambda packed: _bind(packed, "mma", mma_panels, tiles.few_tokens)
)
"""Cost: 9/16 of the dense weight's bytes per tile of tokens, 2 FLOP per kept weight and token, by mma.sp.

Source: Frantar et al. 2024, "MARLIN: Mixed-Precision Auto-Regressive Parallel Inference on Large Language Models",
section 3.5, whose sparse kernel keeps the weights as the sparse operand and shuffles them ahead.
"""

NM_MM_CUDA = Kernel(
    "nm_mm_cuda", NMPacked, _refuses_many, lambda packed: _bind(packed, "wgmma", wgmma_panels, tiles.many_tokens)
)
"""Cost: 9/16 of the dense weight's bytes per tile of tokens, 2 FLOP per kept weight and token, by wgmma.sp.

Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3.
"""
