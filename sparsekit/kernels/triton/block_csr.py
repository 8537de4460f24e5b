"""Block CSR on GPUs."""

from __future__ import annotations

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu, refuses_sizes
from sparsekit.kernels.triton.launch import FLOATS, Launch, precision_of, refuses
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands, Tiling, tiled_kernel

SIDES = (16, 32, 64, 128)
"""Rows, and columns, of the blocks that are run."""


def tiles(problem: Problem, gpu: Gpu) -> list[Tile]:
    """Return the tiles worth trying for ``problem``, the likeliest first."""
    packed = problem.packed
    assert isinstance(packed, BlockCSR)
    tokens = 128 if problem.batch > 64 else max(16, 1 << (problem.batch - 1).bit_length())
    return [Tile(tokens, packed.block_rows, packed.block_columns)]


def launches(packed: BlockCSR, operands: Operands, tile: Tile) -> list[Launch]:
    """Return what computes ``y = x @ packed.T + bias``."""
    x, bias, y = operands.x, operands.bias, operands.y
    grid = (-(-packed.rows // packed.block_rows), -(-x.shape[0] // tile.tokens))
    constants = {
        "TOKENS": tile.tokens,
        "BLOCK_ROWS": packed.block_rows,
        "BLOCK_COLUMNS": packed.block_columns,
        "PRECISION": precision_of(x.dtype),
        "ACTIVATION": operands.activation,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    tensors = (x, packed.values, packed.block_indices, packed.block_offsets, bias, y)
    sizes = (x.shape[0], packed.rows, packed.columns, x.stride(0))
    return [Launch("block_csr.multiply", grid, (*tensors, *sizes), constants)]


def _refuses(problem: Problem) -> Refusal | None:
    packed = problem.packed
    assert isinstance(packed, BlockCSR)
    if reason := refuses(problem, *FLOATS):
        return reason
    if packed.block_rows not in SIDES or packed.block_columns not in SIDES:
        return Refusal(f"it runs blocks with sides of {SIDES}, not {packed.block_rows} x {packed.block_columns}")
    elements = {"x": problem.batch * packed.columns, "y": problem.batch * packed.rows}
    return refuses_sizes(values=packed.values.numel(), **elements)


def _prepare(packed: Format) -> Format:
    return packed


BLOCK_CSR_MM = tiled_kernel(
    "block_csr_mm_triton", BlockCSR, _refuses, Tiling(_prepare, tiles, launches), "relu", "silu", "gelu", "gelu_tanh"
)
"""Cost: 2 FLOP per stored weight and token on the tensor cores; x is read once per block row."""
