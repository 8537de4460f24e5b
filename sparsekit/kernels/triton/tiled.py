"""A kernel whose work is cut into tiles: how it is bound, and which tile it takes for which batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem, rows_contiguous
from sparsekit.kernels.gpu import Gpu, gpu_of
from sparsekit.kernels.triton.launch import Launch
from sparsekit.kernels.triton.tile import Case, Tile, tuned_for


@dataclass(frozen=True)
class Operands:
    """What one product is given beside its weight.

    Args:
        x: ``(batch, columns)``, its rows contiguous.
        bias: ``(rows,)``, contiguous, or None.
        y: ``(batch, rows)``, contiguous, to be written.
        activation: what is applied to the result before it is stored, one of
            :data:`~sparsekit.kernels.activation.ACTIVATIONS`.
    """

    x: Tensor
    bias: Tensor | None
    y: Tensor
    activation: str = "none"


@dataclass(frozen=True)
class Tiling:
    """How the work is cut up.

    Args:
        prepare: what is derived from a packed weight, once, and given to ``launches`` in its place.
        tiles: the tiles worth trying for a problem on a GPU; the first is taken where nothing was tuned.
        launches: what computes one product with one tile, in this order.
    """

    prepare: Callable[[Format], Any]
    tiles: Callable[[Problem, Gpu], Sequence[Tile]]
    launches: Callable[[Any, Operands, Tile], list[Launch]]


@dataclass(frozen=True, kw_only=True)
class TiledKernel(Kernel):
    """A kernel that can be tuned: see :class:`Tiling`."""

    tiling: Tiling


def tiled_kernel(
    name: str, format: type[Format], refuses: Callable[[Problem], Refusal | None], tiling: Tiling
) -> TiledKernel:
    """Return the kernel that runs ``tiling``; all programs apply every activation by ``programs/activation.py``."""
    return TiledKernel(name, format, refuses, partial(_bind, name, tiling), ACTIVATIONS, tiling=tiling)


def tile_for(kernel: str, tiling: Tiling, problem: Problem, gpu: Gpu) -> Tile:
    """Return the tile for ``problem``: the tuned one of the nearest case, or else the first."""
    return tuned_for(gpu).nearest(Case.of(kernel, problem)) or tiling.tiles(problem, gpu)[0]


def _bind(name: str, tiling: Tiling, packed: Format, activation: str = "none") -> Multiply:
    prepared, gpu, tiles = tiling.prepare(packed), gpu_of(packed.values.device), dict[int, Tile]()

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        batch = x.shape[0]
        tile = tiles.get(batch)
        if tile is None:
            tile = tiles[batch] = tile_for(name, tiling, Problem(packed, batch), gpu)
        operands = laid_out(x, bias, packed.rows, activation)
        for launch in tiling.launches(prepared, operands, tile):
            launch.run()
        return operands.y

    return multiply


def laid_out(x: Tensor, bias: Tensor | None, rows: int, activation: str) -> Operands:
    """Return the operands as programs read them, copied where they lie otherwise, and room for the result."""
    x = rows_contiguous(x)
    if bias is not None:
        bias = bias.resolve_neg().contiguous()
    return Operands(x, bias, torch.empty((x.shape[0], rows), dtype=x.dtype, device=x.device), activation)
