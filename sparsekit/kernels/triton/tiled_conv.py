"""A convolution whose work is cut into tiles: how it is bound, and which tile it takes for which images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Multiply, Problem
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem, Size
from sparsekit.kernels.gpu import MOST_ELEMENTS, Gpu, gpu_of
from sparsekit.kernels.triton.launch import Launch
from sparsekit.kernels.triton.tile import Case, Tile, tuned_for


@dataclass(frozen=True)
class Images:
    """What one convolution is given beside its weight.

    Args:
        x: ``(N, C, H, W)``, a pixel's channels contiguous and in whole 16 bytes; those beyond the weight's are zeros.
        bias: ``(out,)``, contiguous, or None.
        y: ``(N, out, H', W')`` in channels_last order, to be written.
    """

    x: Tensor
    bias: Tensor | None
    y: Tensor


@dataclass(frozen=True)
class ConvTiling:
    """How the work is cut up.

    Args:
        prepare: what is derived from a packed weight and a convolution, once, and given to ``launches``.
        tiles: the tiles worth trying for a problem on a GPU; the first is taken where nothing was tuned.
        launches: what computes one convolution with one tile, in this order.
    """

    prepare: Callable[[Format, Convolution], Any]
    tiles: Callable[[ConvProblem, Gpu], Sequence[Tile]]
    launches: Callable[[Any, Images, Tile], list[Launch]]


@dataclass(frozen=True)
class TiledConvKernel(ConvKernel):
    """A convolution that can be tuned: see :class:`ConvTiling`."""

    tiling: ConvTiling


def tiled_conv_kernel(
    name: str, format: type[Format], refuses: Callable[[ConvProblem], Refusal | None], tiling: ConvTiling
) -> TiledConvKernel:
    """Return the kernel that runs ``tiling``."""
    return TiledConvKernel(name, format, refuses, partial(_bind, name, tiling), tiling)


def case_of(kernel: str, problem: ConvProblem) -> Case:
    """Return the case that ``problem`` is: tokens are pixels of the result, and the pattern names kernel and stride."""
    done = problem.convolution
    case = Case.of(kernel, Problem(problem.packed, pixels_of(problem)))
    (high, wide), (down, across) = done.kernel_size, done.stride
    return replace(case, pattern=f"{case.pattern} {high}x{wide} by {down}x{across}".lstrip())


def pixels_of(problem: ConvProblem) -> int:
    """Pixels of the result, of all images."""
    batch, height, width = problem.size
    high, wide = problem.convolution.output_size(height, width)
    return batch * high * wide


def _bind(name: str, tiling: ConvTiling, packed: Format, convolution: Convolution) -> Multiply:
    prepared, gpu, tiles = tiling.prepare(packed, convolution), gpu_of(packed.values.device), dict[Size, Tile]()

    def run(x: Tensor, bias: Tensor | None) -> Tensor:
        size = (x.shape[0], x.shape[2], x.shape[3])
        tile = tiles.get(size)
        if tile is None:
            problem = ConvProblem(packed, convolution, size)
            tuned = tuned_for(gpu).nearest(case_of(name, problem))
            tile = tiles[size] = tuned or tiling.tiles(problem, gpu)[0]
        images = laid_out(x, bias, packed.rows, convolution)
        for launch in tiling.launches(prepared, images, tile):
            launch.run()
        return images.y

    return run


def laid_out(x: Tensor, bias: Tensor | None, rows: int, convolution: Convolution) -> Images:
    """Return the images as programs read them, copied where they lie otherwise, and room for the result."""
    shape = (x.shape[0], rows, *convolution.output_size(x.shape[2], x.shape[3]))
    if not _readable(x):
        x = _copied(x)
    if bias is not None:
        bias = bias.resolve_neg().contiguous()
    return Images(x, bias, torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last))


def _readable(x: Tensor) -> bool:
    """Whether threads can read 16 bytes at once, all of one pixel, and count places in 32 bits."""
    last = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    together = 16 // x.element_size()
    aligned = math.gcd(together, x.shape[1], x.stride(0), x.stride(2), x.stride(3)) == together
    return x.stride(1) == 1 and aligned and x.data_ptr() % 16 == 0 and last < MOST_ELEMENTS and not x.is_neg()


def _copied(x: Tensor) -> Tensor:
    """``x`` in channels_last order, filled up with channels of zeros to whole 16 bytes."""
    more = -x.shape[1] % (16 // x.element_size())
    if not more:
        return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
    shape = (x.shape[0], x.shape[1] + more, *x.shape[2:])
    filled = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    filled[:, : x.shape[1]] = x
    filled[:, x.shape[1] :] = 0.0
    return filled
