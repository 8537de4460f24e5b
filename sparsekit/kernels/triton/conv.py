"""Convolutions by blocks of channels on GPUs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import torch

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.convolution import Convolution, ConvProblem
from sparsekit.kernels.gpu import Gpu, refuses_sizes
from sparsekit.kernels.triton.conv_steps import MOST_CHANNELS, MOST_SIDE, PIECE, Steps
from sparsekit.kernels.triton.launch import FLOATS, Launch, precision_of, refuses
from sparsekit.kernels.triton.partial import sum_of
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled_conv import ConvTiling, Images, pixels_of, tiled_conv_kernel

LEAST = 16
"""Channels to read and to write, and outputs of a block, from which matrix instructions are filled."""

OUTPUTS = (16, 32, 64, 128)
"""Channels that one tile writes."""

SPLITS = (1, 2, 4, 8)
"""Parts that the steps of a tile are cut into, where there are fewer tiles than multiprocessors."""

CANDIDATES = 8
"""Tiles that are worth trying, of all that could be run."""

STEPS_AROUND, LEAST_ROWS, ROWS_OF_LAUNCH = 2, 80, 800
"""Guesses, in rows of a step that a multiprocessor reads: how many steps the first reads and the result take, how long
the shortest step waits for memory, and how long one more launch takes. They only order the tiles to be tried."""


class ConvWeight:
    """A packed weight and its layout for each cut that was asked for."""

    def __init__(self, packed: Format, convolution: Convolution) -> None:
        assert isinstance(packed, BlockCSR)
        self.packed, self.convolution = packed, convolution
        self._steps: dict[tuple[int, int], Steps] = {}

    def steps(self, outputs: int, inner: int) -> Steps:
        """Return the steps for tiles of ``outputs`` channels, ``inner`` columns each; laid out once."""
        found = self._steps.get((outputs, inner))
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._steps[outputs, inner] = Steps.cut(self.packed, self.convolution, outputs, inner)
        return found


def tiles(problem: ConvProblem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying for ``problem``, that which should take the least time first."""
    wide, exact = problem.dtype.itemsize, precision_of(problem.dtype) == "ieee"
    inner = min(PIECE if exact else 128 // wide, PIECE << (_pieces(problem) - 1).bit_length())
    tokens = (16, 32, 64, 128, 256)
    most = max(tokens[0], 1 << (pixels_of(problem) - 1).bit_length())
    found = []
    for high, outputs in product(tokens, OUTPUTS):
        area = high * outputs
        if high > most or area > (8192 if exact else 16384) or outputs >= 2 * problem.packed.rows:
            continue
        bytes_of_step = (high + outputs) * inner * wide
        stages = 4 if 4 * bytes_of_step <= gpu.shared_bytes // 2 else 3
        tile = Tile(high, outputs, inner, 8 if area > (4096 if exact else 8192) else 4, stages)
        splits = SPLITS if _count(problem, tile) < gpu.multiprocessors else (1,)
        found.append(min((replace(tile, splits=n) for n in splits), key=lambda way: _time(problem, way, gpu)))
    return sorted(found, key=lambda tile: _time(problem, tile, gpu))[:CANDIDATES]


def _pieces(problem: ConvProblem) -> int:
    """Pieces that an output reads where nothing is pruned."""
    return math.prod(problem.convolution.kernel_size) * -(-problem.convolution.in_channels // PIECE)


def _count(problem: ConvProblem, tile: Tile) -> int:
    return -(-problem.packed.rows // tile.outputs) * -(-pixels_of(problem) // tile.tokens) * tile.splits


def _time(problem: ConvProblem, tile: Tile, gpu: Gpu) -> float:
    """About how long ``tile`` takes, in rows of its steps that one multiprocessor reads.

    Outputs of several block rows read what any of them needs, as if the blocks of each were chosen independently.
    """
    packed = problem.packed
    assert isinstance(packed, BlockCSR)
    kept = min(1.0, packed.values.numel() / (packed.rows * packed.columns))
    read = 1.0 - (1.0 - kept) ** max(1.0, tile.outputs / packed.block_rows)
    steps = read * _pieces(problem) * PIECE / tile.inner / tile.splits
    rows = (steps + STEPS_AROUND) * max(tile.tokens + tile.outputs, LEAST_ROWS)
    return float(-(-_count(problem, tile) // gpu.multiprocessors) * rows + (ROWS_OF_LAUNCH if tile.splits > 1 else 0))


def launches(weight: ConvWeight, images: Images, tile: Tile) -> list[Launch]:
    """Return what computes the convolution of ``images``; parts of sums are added up by a launch of their own."""
    y, activation = images.y, weight.convolution.activation
    if tile.splits == 1:
        return [_convolve(weight, images, tile, activation)]
    parts = y.new_empty((tile.splits, y.numel()), dtype=torch.float32)
    add = sum_of(parts, images.bias, y.permute(0, 2, 3, 1), activation)  # its channels lie side by side
    return [_convolve(weight, Images(images.x, None, parts), tile, "none"), add]


def _convolve(weight: ConvWeight, images: Images, tile: Tile, activation: str) -> Launch:
    x, done, steps = images.x, weight.convolution, weight.steps(tile.outputs, tile.inner)
    batch, channels, height, width = x.shape
    high, wide = done.output_size(height, width)
    strides = (x.stride(0), x.stride(2), x.stride(3))
    constants = {
        "KERNEL_HEIGHT": done.kernel_size[0],
        "KERNEL_WIDTH": done.kernel_size[1],
        "TOKENS": tile.tokens,
        "OUTPUTS": tile.outputs,
        "INNER": tile.inner,
        "PIECE": PIECE,
        "ALIGNMENT": math.gcd(PIECE, channels, *strides),
        "PRECISION": precision_of(x.dtype),
        "ACTIVATION": activation,
        "SPLITS": tile.splits,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    pixels, row_tiles = batch * high * wide, len(steps.firsts)
    tensors = (x, steps.values, steps.pieces, steps.offsets, steps.firsts, images.bias, images.y)
    sizes = (pixels, row_tiles, height, width, high, wide, weight.packed.rows, channels, *strides)
    shape = (*done.stride, *done.dilation, done.padding[0], done.padding[2])
    grid = (row_tiles * -(-pixels // tile.tokens), tile.splits)
    return Launch("conv.convolve", grid, (*tensors, *sizes, *shape), constants)


def _refuses(problem: ConvProblem) -> Refusal | None:
    packed, done = problem.packed, problem.convolution
    assert isinstance(packed, BlockCSR)
    if reason := refuses(problem, *FLOATS):
        return reason
    if done.groups > 1:
        return Refusal(f"it runs convolutions of one group, not of {done.groups}")
    if min(done.in_channels, packed.rows) < LEAST:
        got = f"{done.in_channels} to {packed.rows}"
        return Refusal(f"it fills matrix instructions from {LEAST} channels on, and this goes from {got}")
    if packed.block_rows < LEAST:
        return Refusal(f"it reads channels for {LEAST} outputs at once, and a block has {packed.block_rows}")
    if max(done.kernel_size) > MOST_SIDE or done.in_channels >= MOST_CHANNELS:
        return Refusal(f"it runs kernels up to {MOST_SIDE} x {MOST_SIDE} of fewer than 2**23 channels")
    batch, height, width = problem.size
    return refuses_sizes(
        x=batch * height * width * (done.in_channels + PIECE),
        y=pixels_of(problem) * packed.rows,
        values=(packed.rows + OUTPUTS[-1]) * math.prod(done.kernel_size) * (done.in_channels + 4 * PIECE),
    )


BLOCK_CSR_CONV = tiled_conv_kernel("block_csr_conv_triton", BlockCSR, _refuses, ConvTiling(ConvWeight, tiles, launches))
"""Cost: 2 FLOP per pixel, output and channel of the pieces of 16 channels that any of a tile's outputs reads at a tap,
on the tensor cores; x is read once per tile of outputs and tap, and copied where its channels are not the closest."""
