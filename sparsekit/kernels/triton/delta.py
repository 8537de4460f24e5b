"""Delta CSR on GPUs, for few tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.formats import DeltaCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu, refuses_sizes
from sparsekit.kernels.triton.few import CHUNK, MOST_SPLITS, refuses_batch, shared, splits_for
from sparsekit.kernels.triton.launch import FLOATS, Launch, refuses
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands, Tiling, tiled_kernel

MOST = 32
"""Tokens up to which a plan may find it worth while to read the weight once for every four of them."""


@dataclass(frozen=True)
class Words:
    """A weight seen as words of 32 bits.

    Args:
        packed: the weight.
        values: float32 ``(chunks, 8)``, or halves seen as int32 words of two ``(chunks, 4)``.
        distances: int32 ``(chunks, bits / 4)``.
        first_columns: int16 or int32 ``(chunks,)``.
    """

    packed: DeltaCSR
    values: Tensor
    distances: Tensor
    first_columns: Tensor


def _prepare(packed: Format) -> Words:
    assert isinstance(packed, DeltaCSR)
    values = packed.values if packed.values.dtype == torch.float32 else packed.values.view(torch.int32)
    columns = packed.first_columns
    columns = columns.view(torch.int16) if columns.dtype == torch.uint16 else columns
    return Words(packed, values, packed.distances.view(torch.int32), columns)


def tiles(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying for ``problem``, the likeliest first: warps of their own, no barriers."""
    tokens = min(4, 1 << (problem.batch - 1).bit_length())
    chunks_of_row = max(problem.packed.values.shape[0] // problem.packed.rows, 1)
    found = []
    for outputs, lanes in ((4, 32), (2, 32), (8, 32), (4, 16), (8, 16)):
        blocks = -(-problem.packed.rows // outputs) * -(-problem.batch // tokens)
        splits = splits_for(gpu, blocks, 1, -(-chunks_of_row // lanes))
        found.append(Tile(tokens, outputs, lanes * CHUNK, 1, 1, splits))
    return found


def launches(prepared: Words, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ W.T + bias``."""
    packed, x = prepared.packed, operands.x
    grid = (-(-packed.rows // tile.outputs), -(-x.shape[0] // tile.tokens), tile.splits)

    def launch(part: Operands) -> Launch:
        tensors = (x, prepared.values, prepared.distances, prepared.first_columns, packed.chunk_offsets)
        constants = {
            **{"BITS": packed.bits, "TOKENS": tile.tokens, "OUTPUTS": tile.outputs, "LANES": tile.inner // CHUNK},
            **{"ACTIVATION": part.activation, "num_warps": tile.warps, "num_stages": tile.stages},
        }
        arguments = (*tensors, part.bias, part.y, x.shape[0], packed.rows, x.stride(0))
        return Launch("delta.multiply_few", grid, arguments, constants)

    return shared(operands, tile.splits, launch)


def _refuses(problem: Problem) -> Refusal | None:
    packed, batch = problem.packed, problem.batch
    if reason := refuses(problem, *FLOATS) or refuses_batch(batch, MOST):
        return reason
    elements = {"x": batch * packed.columns, "y": MOST_SPLITS * batch * packed.rows}
    return refuses_sizes(values=packed.values.numel(), **elements)


DELTA_MV = tiled_kernel("delta_mv_triton", DeltaCSR, _refuses, Tiling(_prepare, tiles, launches))
"""Cost: 2.75 bytes per slot in bfloat16 with distances of 4 bits, 3.25 with 8, once per 4 tokens, and 2 FLOP per slot
and token. About 12 instructions per slot for one token and 23 for four, by the machine code for sm_90. Each slot and
token fetches its input from the first-level cache on its own: so many addresses, not memory, may be the limit.
"""
