"""Block CSR on GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu, gpu_of, refuses_sizes
from sparsekit.kernels.triton.block_bands import Bands, bands_of
from sparsekit.kernels.triton.block_tiles import LEAST, BlockWork, block_tiles, shared_bytes
from sparsekit.kernels.triton.launch import FLOATS, Launch, precision_of, refuses
from sparsekit.kernels.triton.partial import sum_of
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands, Tiling, tiled_kernel

THREADS = 2048
"""Of one multiprocessor, at most."""


def tiles(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying for ``problem``, the likeliest first."""
    packed = problem.packed
    assert isinstance(packed, BlockCSR)
    sides = (packed.block_rows, packed.block_columns)
    return block_tiles(BlockWork.of(problem.batch, packed.rows, sides, packed.values), gpu)


def launches(bands: Bands, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ weight.T + bias``."""
    x, bias, y = operands.x, operands.bias, operands.y
    batch, gpu = x.shape[0], gpu_of(x.device)
    parts = y if tile.splits == 1 else y.new_empty((tile.splits, *y.shape), dtype=torch.float32)
    programs = len(bands.order) * (bands.high // tile.outputs) * -(-batch // tile.tokens) * tile.splits
    if tile.persistent:
        programs = min(programs, gpu.multiprocessors * _resident(tile, x.element_size(), gpu))
    constants = {
        "TOKENS": tile.tokens,
        "OUTPUTS": tile.outputs,
        "INNER": tile.inner,
        "OUTER_SIDE": bands.high,
        "INNER_SIDE": bands.wide,
        "TRANSPOSED": bands.positions is not None,
        "EVEN": bands.inputs % bands.wide == 0,
        "SPLITS": tile.splits,
        "PERSISTENT": tile.persistent,
        "PRECISION": precision_of(x.dtype),
        "ACTIVATION": operands.activation,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    index = (bands.indices, bands.positions, bands.offsets, bands.order)
    sizes = (batch, bands.outputs, bands.inputs, x.stride(0), _group(x, tile, gpu))
    product = Launch("block_csr.multiply", (programs,), (x, bands.values, *index, bias, parts, *sizes), constants)
    return [product] if tile.splits == 1 else [product, sum_of(parts, bias, y, operands.activation)]


def _resident(tile: Tile, bytes: int, gpu: Gpu) -> int:
    """Programs that one multiprocessor runs at once."""
    return max(1, min(gpu.shared_bytes // shared_bytes(tile, bytes, gpu), THREADS // (32 * tile.warps)))


def _group(x: Tensor, tile: Tile, gpu: Gpu) -> int:
    """Tiles of tokens that are multiplied by all the weight before the next: a quarter of the cache holds them."""
    return max(1, gpu.cache_bytes // 4 // max(tile.tokens * x.shape[1] * x.element_size(), 1))


def refuses_blocks(problem: Problem) -> Refusal | None:
    """Return why no program here runs the blocks of ``problem``, or None."""
    packed = problem.packed
    assert isinstance(packed, BlockCSR)
    if reason := refuses(problem, *FLOATS):
        return reason
    if packed.block_rows % LEAST or packed.block_columns % LEAST:
        sides = f"{packed.block_rows} x {packed.block_columns}"
        return Refusal(f"it runs blocks whose sides are multiples of {LEAST}, not {sides}")
    return refuses_sizes(values=packed.values.numel())


def _prepare(packed: Format) -> Any:
    assert isinstance(packed, BlockCSR)
    return bands_of(packed)


BLOCK_CSR_MM = tiled_kernel(
    *("block_csr_mm_triton", BlockCSR, refuses_blocks, Tiling(_prepare, tiles, launches)),
)
"""Cost: 2 FLOP per stored weight and token on the tensor cores; x is read once per band of outputs, from the cache."""
