"""Bitmask on GPUs, for few tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import Bitmask
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import unpack_fields
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu, refuses_sizes
from sparsekit.kernels.triton.few import CHUNK, MOST_SPLITS, refuses_batch, shared, splits_for
from sparsekit.kernels.triton.launch import FLOATS, Launch, precision_of, refuses
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands, Tiling, tiled_kernel

COLUMNS = 256
"""Columns that the lanes of a warp have at once, eight each."""

FEW = 4
"""Tokens up to which the arithmetic cores are worth using."""

MANY = 32
"""Tokens up to which memory, not arithmetic, is the limit."""


@dataclass(frozen=True)
class Tiles:
    """A bitmask cut into tiles of 256 columns, which can be decoded on their own.

    Args:
        packed: the weight.
        values: int32 ``(words,)``: the values' bits, halves in words of two, with zeros added up to whole chunks of 8.
        maps: int8 ``(rows, 32 tiles)``: the bits, with zeros added.
        starts: int32 ``(rows, tiles)``: the place of the first value of each tile.
    """

    packed: Bitmask
    values: Tensor
    maps: Tensor
    starts: Tensor


def _prepare(packed: Format) -> Tiles:
    assert isinstance(packed, Bitmask)
    maps = packed.bits.view(torch.uint8)
    maps = F.pad(maps, (0, -maps.shape[1] % (COLUMNS // 8)))
    counts = unpack_fields(maps, 1, 8 * maps.shape[1]).reshape(packed.rows, -1, COLUMNS).sum(dim=2)
    starts = packed.row_offsets[:-1].unsqueeze(1) + counts.cumsum(1) - counts
    spare = -packed.values.shape[0] % CHUNK
    values = F.pad(packed.values, (0, spare)) if spare else packed.values
    return Tiles(packed, values.view(torch.int32), maps.view(torch.int8), starts.to(torch.int32))


def tiles_few(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying on the arithmetic cores, the likeliest first: warps of their own, no barriers."""
    tokens = 1 << (problem.batch - 1).bit_length()
    return [_tile(problem, gpu, Tile(tokens, outputs, COLUMNS, 1, 1)) for outputs in (4, 2, 8)]


def tiles_many(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying on the tensor cores, the likeliest first."""
    tokens = max(8, 1 << (problem.batch - 1).bit_length())
    shapes = ((64, 8), (32, 4), (16, 4))
    return [_tile(problem, gpu, Tile(tokens, outputs, COLUMNS, warps, 1)) for outputs, warps in shapes]


def _tile(problem: Problem, gpu: Gpu, whole: Tile) -> Tile:
    blocks = -(-problem.packed.rows // whole.outputs) * -(-problem.batch // whole.tokens)
    splits = splits_for(gpu, blocks, whole.warps, -(-problem.packed.columns // COLUMNS))
    return replace(whole, splits=splits)


def launches_few(prepared: Tiles, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ W.T + bias`` on the arithmetic cores."""
    return _launches("bitmask.multiply_few", prepared, operands, tile, {})


def launches_many(prepared: Tiles, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ W.T + bias`` on the tensor cores."""
    return _launches("bitmask.multiply", prepared, operands, tile, {"PRECISION": precision_of(operands.x.dtype)})


def _launches(program: str, prepared: Tiles, operands: Operands, tile: Tile, constants: dict[str, str]) -> list[Launch]:
    packed, x = prepared.packed, operands.x
    grid = (-(-packed.rows // tile.outputs), -(-x.shape[0] // tile.tokens), tile.splits)

    def launch(part: Operands) -> Launch:
        tensors = (x, prepared.values, prepared.maps, prepared.starts, part.bias, part.y)
        sizes = (x.shape[0], packed.rows, packed.columns, x.stride(0), prepared.starts.shape[1])
        own = {"TOKENS": tile.tokens, "OUTPUTS": tile.outputs, "ACTIVATION": part.activation, **constants}
        return Launch(program, grid, (*tensors, *sizes), {**own, "num_warps": tile.warps, "num_stages": tile.stages})

    return shared(operands, tile.splits, launch)


def _refuses(problem: Problem, most: int) -> Refusal | None:
    packed, batch = problem.packed, problem.batch
    if reason := refuses(problem, *FLOATS) or refuses_batch(batch, most):
        return reason
    elements = {"x": batch * packed.columns, "y": MOST_SPLITS * batch * packed.rows}
    return refuses_sizes(weight=packed.rows * packed.columns, **elements)


BITMASK_MV = tiled_kernel(
    "bitmask_mv_triton",
    Bitmask,
    lambda problem: _refuses(problem, FEW),
    Tiling(_prepare, tiles_few, launches_few),
)
"""Cost: 2 bytes per stored value in bfloat16 and 9/64 of a byte per weight, once per 4 tokens; 2 FLOP per weight
and token. About 19 instructions per weight, stored or not, for one token and 24 for four, by the machine code for
sm_90: the fewer weights are stored, the less of the saved memory shows.
"""

BITMASK_MM = tiled_kernel(
    "bitmask_mm_triton",
    Bitmask,
    lambda problem: _refuses(problem, MANY),
    Tiling(_prepare, tiles_many, launches_many),
)
"""Cost: 2 bytes per stored value in bfloat16 and 9/64 of a byte per weight, once for up to 32 tokens; 2 FLOP per weight
and token on the tensor cores. About 19 instructions per weight, stored or not, for up to 16 tokens, by the machine code
for sm_90.
"""
