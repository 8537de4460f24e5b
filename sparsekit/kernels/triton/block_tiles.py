"""Which tiles are worth trying for blocks: pure, so that what a GPU would be given is known without one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsekit.kernels.gpu import Gpu
from sparsekit.kernels.triton.launch import precision_of
from sparsekit.kernels.triton.tile import Tile

MOST = 12
"""Tiles to try, at most."""

LEAST = 16
"""The least side of what a matrix instruction takes, and so of a block."""

LEAST_STEPS = 4
"""Steps of a part that the inputs are cut into, at least: fewer hide no latency."""


@dataclass(frozen=True)
class BlockWork:
    """One product by the blocks of a weight.

    Args:
        batch: tokens.
        bands: how many there are.
        high: outputs of a band.
        wide: inputs of a block.
        blocks: how many are stored.
        bytes: of one number.
        exact: whether float32 is multiplied as it is, which no tensor core does.
    """

    batch: int
    bands: int
    high: int
    wide: int
    blocks: int
    bytes: int
    exact: bool

    @classmethod
    def of(cls, batch: int, outputs: int, sides: tuple[int, int], values: Tensor) -> BlockWork:
        """Return the work of multiplying by ``values``, blocks with ``sides`` in a weight of so many outputs."""
        exact = values.dtype == torch.float32 and precision_of(values.dtype) == "ieee"
        bands = -(-outputs // sides[0])
        return cls(batch, bands, *sides, values.shape[0], values.element_size(), exact)

    def steps(self, tile: Tile) -> int:
        """Steps for the blocks of one band, on average."""
        return -(-self.blocks * self.wide // (max(self.bands, 1) * tile.inner))

    def programs(self, tile: Tile) -> int:
        """Tiles that there are to compute."""
        return self.bands * (self.high // tile.outputs) * -(-self.batch // tile.tokens)


def block_tiles(work: BlockWork, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying for ``work``, the likeliest first; each fits the memory of ``gpu``."""
    first = _likeliest(work, gpu)
    found: dict[Tile, None] = {}
    for tile in (first, *_others(first, work, gpu)):
        if runs(tile, work.high, work.wide) and shared_bytes(tile, work.bytes, gpu) <= gpu.shared_bytes:
            found.setdefault(tile)
    return list(found)[:MOST]


def runs(tile: Tile, high: int, wide: int) -> bool:
    """Whether ``tile`` divides blocks of ``high`` outputs and ``wide`` inputs into equal parts, or joins whole ones."""
    return high % tile.outputs == 0 and (wide % tile.inner == 0 or tile.inner % wide == 0)


def shared_bytes(tile: Tile, bytes: int, gpu: Gpu) -> int:
    """Shared memory that the program for ``tile`` takes, or a little more.

    Every step under way has a buffer of its own; where a matrix instruction reads it on its own time, one more.
    """
    buffers = tile.stages if asynchronous(tile, gpu) else max(tile.stages - 1, 1)
    loads = buffers * (tile.tokens + tile.outputs) * tile.inner * bytes
    index = 4 * tile.inner
    return max(loads + index, tile.tokens * tile.outputs * 4)


def asynchronous(tile: Tile, gpu: Gpu) -> bool:
    """Whether the matrix instructions of ``tile`` are those of Hopper, which four warps start together."""
    return gpu.capability[0] == 9 and tile.tokens >= 64 and tile.warps >= 4


def part_of(side: int, most: int) -> int:
    """The largest power of two that divides ``side``, at most ``most``."""
    return min(side & -side, most)


def joined(side: int, numbers: int) -> int:
    """Inputs of one step, ``numbers`` if blocks with such a side can be divided or joined to it."""
    part = part_of(side, numbers)
    return numbers if part == side else part


def with_stages(tile: Tile, bytes: int, gpu: Gpu, most: int) -> Tile:
    """Return ``tile`` with as many stages, from 2 to ``most``, as leave room for another program beside it.

    A tile of more than 128 tokens has a multiprocessor to itself, since its registers may not fit twice.
    """
    room = gpu.shared_bytes // (1 if tile.tokens > 128 else 2)
    while most > 2 and shared_bytes(replace(tile, stages=most), bytes, gpu) > room:
        most -= 1
    return replace(tile, stages=most)


def splits_for(tiles: int, steps: int, gpu: Gpu) -> int:
    """Parts to cut a sum into, so that ``tiles`` of so many steps give every multiprocessor two programs."""
    return max(1, min(2 * gpu.multiprocessors // max(tiles, 1), steps // LEAST_STEPS))


def sample_tile(work: BlockWork, gpu: Gpu) -> Tile:
    """Return the tile for the gradient of stored blocks: ``inner`` inputs by ``outputs``, summed over ``tokens``."""
    inner = joined(work.wide, 64) if work.wide < 128 or work.exact else 128
    outputs = part_of(work.high, 64 if work.exact else 128)
    step = 16 if work.exact else 128 // work.bytes
    # To the matrix instructions, inputs are the rows here and tokens the inner side.
    product = Tile(inner, outputs, step)
    product = with_stages(replace(product, warps=_warps(product)), work.bytes, gpu, 4)
    tiles = -(-work.blocks * work.wide // inner) * (work.high // outputs)
    splits = splits_for(tiles, -(-work.batch // step), gpu)
    return replace(product, tokens=step, inner=inner, splits=splits)


def _likeliest(work: BlockWork, gpu: Gpu) -> Tile:
    tokens = min(128, max(LEAST, 1 << (work.batch - 1).bit_length()))
    inner = joined(work.wide, 16 if work.exact else 128 // work.bytes)
    tile = Tile(tokens, part_of(work.high, 64 if work.exact else 128), inner)
    if tokens == 128 and (work.exact or work.programs(tile) < gpu.multiprocessors):
        tile = replace(tile, tokens=64)
    tile = replace(tile, warps=_warps(tile))
    tile = with_stages(tile, work.bytes, gpu, 5 if tile.tokens < 64 else 4)
    return replace(tile, splits=splits_for(work.programs(tile), work.steps(tile), gpu))


def _warps(tile: Tile) -> int:
    return 8 if tile.tokens * tile.outputs > 128 * 64 else 4


def _others(first: Tile, work: BlockWork, gpu: Gpu) -> Iterable[Tile]:
    """What differs from ``first`` in one way, whether it fits or not."""
    yield from (replace(first, stages=max(first.stages + more, 2)) for more in (1, -1))
    yield from _other_sizes(first, work, gpu)
    yield replace(first, warps=12 - first.warps)
    splits = (2 * first.splits, first.splits // 2)
    yield from (replace(first, splits=parts) for parts in splits if 1 <= parts <= work.steps(first))
    if work.programs(first) > 2 * gpu.multiprocessors:
        yield replace(first, persistent=True)


def _other_sizes(first: Tile, work: BlockWork, gpu: Gpu) -> Iterable[Tile]:
    tokens, outputs, inner = first.tokens, first.outputs, first.inner
    sizes = ((2 * tokens, outputs), (tokens // 2, outputs), (tokens, outputs // 2), (tokens, outputs))
    for (m, n), k in (*((size, inner) for size in sizes), (sizes[-1], 2 * inner), (sizes[-1], inner // 2)):
        if min(m, n, k) < LEAST or m > max(tokens, min(256, 2 * work.batch - 1)):
            continue
        if work.exact and m * n * k > tokens * outputs * inner:
            continue  # each of the products is an instruction of its own
        tile = replace(first, tokens=m, outputs=n, inner=k)
        yield with_stages(replace(tile, warps=_warps(tile)), work.bytes, gpu, 6)
