"""N:M on GPUs, for few tokens: memory is the limit, and it is read in its packed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import unpack_fields
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu, refuses_sizes
from sparsekit.kernels.triton.few import CHUNK, MOST_SPLITS, shared, splits_for
from sparsekit.kernels.triton.launch import FLOATS, Launch, precision_of, refuses
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands, Tiling, tiled_kernel

LANES = 32
"""Chunks of a row that the lanes of a warp read side by side."""

FEW = 4
"""Tokens up to which selecting an input for each value and token is worth it."""

MANY = 64
"""Tokens up to which memory, not arithmetic, is the limit."""


@dataclass(frozen=True)
class Chunks:
    """An N:M weight in rows of whole chunks.

    Args:
        packed: the weight.
        values: the packed ones where they fill chunks, else a copy with zeros added; float32 ``(rows, 8 chunks)``, or
            halves seen as int32 words of two ``(rows, 4 chunks)``.
        positions: of the values of each chunk, int16 ``(rows, chunks)`` with 2 bits each where ``m`` is at most 4, else
            int32 with 4 bits each; the packed ones where they lie like that.
        field: those bits.
    """

    packed: NMPacked
    values: Tensor
    positions: Tensor
    field: int


def _prepare(packed: Format) -> Chunks:
    assert isinstance(packed, NMPacked)
    spare = -packed.values.shape[1] % CHUNK
    values = F.pad(packed.values, (0, spare)) if spare else packed.values
    values = values if values.dtype == torch.float32 else values.view(torch.int32)
    field, dtype = (2, torch.int16) if packed.m <= 4 else (4, torch.int32)
    if not spare and packed.m == 2**field:
        return Chunks(packed, values, packed.positions.view(dtype), field)
    places = F.pad(unpack_fields(packed.positions, (packed.m - 1).bit_length(), packed.values.shape[1]), (0, spare))
    shifts = torch.arange(0, field * CHUNK, field, device=places.device)
    wide = (places.reshape(packed.rows, -1, CHUNK).long() << shifts).sum(dim=2)
    limit = 1 << (field * CHUNK)
    return Chunks(packed, values, torch.where(wide >= limit // 2, wide - limit, wide).to(dtype), field)


def tiles_few(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying on the arithmetic cores, the likeliest first: warps of their own, no barriers."""
    tokens = 1 << (problem.batch - 1).bit_length()
    return [_tile(problem, gpu, LANES, Tile(tokens, outputs, 0, warps=1, stages=1)) for outputs in (4, 8, 2)]


def tiles_many(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying on the tensor cores, the likeliest first."""
    tokens = max(8, 1 << (problem.batch - 1).bit_length())
    shapes = [(outputs, lanes, stages) for outputs in (64, 32) for lanes in (8, 4) for stages in (3, 2, 1)]
    return [_tile(problem, gpu, lanes, Tile(tokens, outputs, 0, 4, stages)) for outputs, lanes, stages in shapes]


def _tile(problem: Problem, gpu: Gpu, lanes: int, whole: Tile) -> Tile:
    """``whole`` with the columns of so many lanes, and cut so that the GPU is filled."""
    packed = problem.packed
    assert isinstance(packed, NMPacked)
    inner = lanes * CHUNK * packed.m // packed.n
    blocks = -(-packed.rows // whole.outputs) * -(-problem.batch // whole.tokens)
    splits = splits_for(gpu, blocks, whole.warps, -(-packed.columns // inner))
    return replace(whole, inner=inner, splits=splits)


def launches_few(prepared: Chunks, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ W.T + bias`` on the arithmetic cores."""
    return _launches("nm.multiply_few", prepared, operands, tile, {"num_stages": tile.stages})


def launches_many(prepared: Chunks, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ W.T + bias`` on the tensor cores."""
    own = {"PRECISION": precision_of(operands.x.dtype), "STAGES": tile.stages}
    return _launches("nm.multiply", prepared, operands, tile, own)


def _launches(
    program: str, prepared: Chunks, operands: Operands, tile: Tile, own: Mapping[str, object]
) -> list[Launch]:
    packed, x = prepared.packed, operands.x
    tail = packed.columns % packed.m
    grid = (-(-packed.rows // tile.outputs), -(-x.shape[0] // tile.tokens), tile.splits)
    lanes = tile.inner * packed.n // (CHUNK * packed.m)
    sizes = (x.shape[0], packed.rows, packed.columns - tail, x.stride(0), prepared.positions.shape[1])

    def launch(part: Operands) -> Launch:
        constants = {
            **{"N": packed.n, "M": packed.m, "FIELD": prepared.field, "TAIL": tail},
            **{"TOKENS": tile.tokens, "OUTPUTS": tile.outputs, "LANES": lanes},
            **{"ACTIVATION": part.activation, "num_warps": tile.warps},
        }
        tensors = (x, prepared.values, prepared.positions, packed.tail, part.bias, part.y)
        return Launch(program, grid, (*tensors, *sizes), {**constants, **own})

    return shared(operands, tile.splits, launch)


def _refuses(problem: Problem, most: int) -> Refusal | None:
    packed = problem.packed
    assert isinstance(packed, NMPacked)
    n, m = packed.n, packed.m
    if reason := refuses(problem, *FLOATS):
        return reason
    if m not in (2, 4, 8, 16) or m not in (2 * n, 4 * n):
        return Refusal(f"it runs groups of 2, 4, 8 or 16 of which a half or a quarter is kept, not {n}:{m}")
    if problem.batch > most:
        return Refusal(f"it runs batches up to {most}, where reading the weight takes longest, not {problem.batch}")
    elements = {"x": problem.batch * packed.columns, "y": MOST_SPLITS * problem.batch * packed.rows}
    return refuses_sizes(weight=packed.rows * packed.columns, **elements)


NM_MV = tiled_kernel(
    "nm_mv_triton",
    NMPacked,
    lambda problem: _refuses(problem, FEW),
    Tiling(_prepare, tiles_few, launches_few),
)
"""Cost: 2.25 bytes per stored bfloat16 value of 2:4 (4.25 in float32), once per 4 tokens, and 2 FLOP per value and
token. About 9 instructions per value for one token and 21 for four, by the machine code for sm_90: taking it out of its
word, two tests of bits, and per token two selections and a multiply-add.
"""

NM_MM = tiled_kernel(
    "nm_mm_triton",
    NMPacked,
    lambda problem: _refuses(problem, MANY),
    Tiling(_prepare, tiles_many, launches_many),
)
"""Cost: 2.25 bytes per stored bfloat16 value of 2:4, once for up to 64 tokens, and 2 FLOP per weight and token on the
tensor cores, zeros included. 14 to 19 instructions per value for up to 16 tokens, by the machine code for sm_90: most
put it at its place.
"""
