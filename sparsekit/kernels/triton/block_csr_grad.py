"""The gradients of a product by block CSR, on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format
from sparsekit.kernels.base import GradientKernel, Gradients, rows_contiguous
from sparsekit.kernels.gpu import gpu_of
from sparsekit.kernels.triton.block_bands import transposed_bands_of
from sparsekit.kernels.triton.block_csr import launches, refuses_blocks
from sparsekit.kernels.triton.block_tiles import BlockWork, block_tiles, sample_tile
from sparsekit.kernels.triton.launch import Launch, precision_of
from sparsekit.kernels.triton.partial import sum_of
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import laid_out


def _bind(packed: Format, places: dict[str, Tensor]) -> Gradients:
    assert isinstance(packed, BlockCSR)
    gpu = gpu_of(packed.values.device)
    sides = (packed.block_rows, packed.block_columns)

    def of_x(grad: Tensor) -> Tensor:
        work = BlockWork.of(grad.shape[0], packed.columns, sides[::-1], packed.values)
        operands = laid_out(grad, None, packed.columns, "none")
        for launch in launches(transposed_bands_of(packed, places), operands, block_tiles(work, gpu)[0]):
            launch.run()
        return operands.y

    def of_part(grad: Tensor, x: Tensor, name: str) -> Tensor:
        assert name == "values"
        values = grad.new_empty(packed.values.shape)
        work = BlockWork.of(grad.shape[0], packed.rows, sides, packed.values)
        for launch in sampling(packed, places, (grad, x), values, sample_tile(work, gpu)):
            launch.run()
        return values

    return Gradients(of_x, of_part)


def sampling(
    packed: BlockCSR, places: dict[str, Tensor], operands: tuple[Tensor, Tensor], values: Tensor, tile: Tile
) -> list[Launch]:
    """Return what computes ``grad.T @ x`` at the blocks of ``packed`` and writes them to ``values``.

    Args:
        packed: where the blocks are.
        places: what is kept of that.
        operands: ``grad``, ``(batch, rows)``, and ``x``, ``(batch, columns)``.
        values: the gradient, in the shape of the packed values.
        tile: ``inner`` inputs by ``outputs`` are computed by one program, in steps of ``tokens``.
    """
    grad, x = (rows_contiguous(operand) for operand in operands)
    runs, bands = _runs(packed, places, max(1, tile.inner // packed.block_columns))
    if not len(bands):
        return []
    parts = values if tile.splits == 1 else values.new_empty((tile.splits, *values.shape), dtype=torch.float32)
    of_block = (packed.block_rows // tile.outputs) * max(1, packed.block_columns // tile.inner)
    constants = {
        "TOKENS": tile.tokens,
        "OUTPUTS": tile.outputs,
        "INNER": tile.inner,
        "BLOCK_ROWS": packed.block_rows,
        "BLOCK_COLUMNS": packed.block_columns,
        "EVEN": packed.rows % packed.block_rows == 0 and packed.columns % packed.block_columns == 0,
        "FULL": x.shape[0] % tile.tokens == 0,
        "SPLITS": tile.splits,
        "PRECISION": precision_of(x.dtype),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    tensors = (x, grad, packed.block_indices.contiguous(), runs, bands, parts)
    sizes = (x.shape[0], packed.rows, packed.columns, values.numel(), x.stride(0), grad.stride(0))
    product = Launch("block_csr_grad.sample", (len(bands) * of_block * tile.splits,), (*tensors, *sizes), constants)
    return [product] if tile.splits == 1 else [product, sum_of(parts, None, values)]


def _runs(packed: BlockCSR, places: dict[str, Tensor], blocks: int) -> tuple[Tensor, Tensor]:
    """Return where runs of at most ``blocks`` blocks of one block row begin, where the last ends, and their rows."""
    names = (f"runs of {blocks}", f"block rows of runs of {blocks}")
    if names[0] not in places:
        offsets = packed.block_offsets.long()
        counts = (offsets.diff() + (blocks - 1)) // blocks
        bands = torch.arange(len(counts), device=offsets.device).repeat_interleave(counts)
        number = torch.arange(len(bands), device=offsets.device) - (counts.cumsum(0) - counts)[bands]
        runs = torch.cat([offsets[bands] + number * blocks, offsets[-1:]])
        places.update(zip(names, (runs.to(torch.int32), bands.to(torch.int32))))
    return places[names[0]], places[names[1]]


BLOCK_CSR_GRADIENTS = GradientKernel("block_csr_gradients_triton", BlockCSR, refuses_blocks, _bind)
"""Cost: 2 FLOP per stored weight and token for each of the two gradients, on the tensor cores. Nothing is derived from
the values, so that their change in every step costs nothing."""
