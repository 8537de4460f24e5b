"""Compressed sparse rows of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.offsets import OFFSET_DTYPES, check_indices, check_offsets, offsets_from_counts, row_of_each
from sparsekit.formats.strips import strips
from sparsekit.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class BlockCSR(Format):
    """The blocks of ``block_rows`` x ``block_columns`` that hold a kept weight, block row by block row.

    ``values`` ``(blocks, block_columns, block_rows)``, the output index fastest:
    ``values[b, k, r] = W[block_row * block_rows + r, block_column * block_columns + k]``. ``block_indices`` int32
    ``(blocks,)`` is the block column of each, ascending within a block row; ``block_offsets``
    ``(ceil(rows / block_rows) + 1,)``, int32 or int64. Edge blocks that reach beyond the matrix are filled with +0.0.

    Source: Gray, Radford, Kingma 2017, "GPU Kernels for Block-Sparse Weights".
    """

    name: ClassVar[str] = "block_csr"

    block_rows: int
    block_columns: int
    block_indices: Tensor
    block_offsets: Tensor

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept masks whose pattern has blocks to be stored by."""
        if mask.pattern.block_sides(tuple(mask.shape)) is not None:
            return None
        return Refusal(f"it stores block patterns only, and this is {mask.pattern}")

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store the blocks that hold a kept weight; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        sides = mask.pattern.block_sides(tuple(mask.shape))
        assert sides is not None
        rows, columns = matrix.shape
        parts = [_stored(matrix[s], keep[s], *sides) for s in strips(rows, columns, sides[0])]
        values, indices, counts = zip(*parts)
        return cls(
            rows=rows,
            columns=columns,
            values=torch.cat(values),
            block_rows=sides[0],
            block_columns=sides[1],
            block_indices=torch.cat(indices),
            block_offsets=offsets_from_counts(torch.cat(counts)),
        )

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        high, wide = self._grid()
        dense = self.values.new_zeros(high, self.block_rows, wide, self.block_columns)
        dense[row_of_each(self.block_offsets), :, self.block_indices.long()] = self.values.transpose(1, 2)
        matrix = dense.reshape(high * self.block_rows, wide * self.block_columns)
        return matrix[: self.rows, : self.columns].contiguous()

    def validate(self) -> None:
        """Check that the offsets and block columns are in range and in order; see :meth:`Format.validate`."""
        check_offsets(self.block_offsets, self.values.shape[0], f"{self} block_offsets")
        check_indices(self.block_indices, self.block_offsets, self._grid()[1], f"{self} block_indices")

    def _grid(self) -> tuple[int, int]:
        """Block rows and block columns, edges included."""
        return -(-self.rows // self.block_rows), -(-self.columns // self.block_columns)

    def _values_shape(self) -> tuple[int, ...]:
        if self.block_rows < 1 or self.block_columns < 1:
            raise FormatError(f"{self}: expected block sides of at least 1")
        return (-1, self.block_columns, self.block_rows)

    def _check_parts(self) -> None:
        self._expect("block_indices", (self.values.shape[0],), torch.int32)
        self._expect("block_offsets", (self._grid()[0] + 1,), *OFFSET_DTYPES)


def _stored(matrix: Tensor, keep: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks of some block rows that hold a kept weight: values, block columns, and how many by block row."""
    kept_tiles = _tiles(keep, rows, columns)
    bytes_of = kept_tiles.view(torch.uint8)
    some = bytes_of.amax(dim=1).amax(dim=2) if kept_tiles.numel() else kept_tiles.any(dim=3).any(dim=1)
    at, column = some.nonzero(as_tuple=True)
    blocks = _tiles(matrix, rows, columns)[at, :, column]
    kept = kept_tiles[at, :, column]
    if not bool(kept.all()):
        blocks.masked_fill_(~kept, 0.0)
    counts = torch.bincount(at, minlength=kept_tiles.shape[0])
    return blocks.transpose(1, 2).contiguous(), column.to(torch.int32), counts


def _tiles(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """View of all blocks, edges filled with 0: ``(block rows, rows, block columns, columns)``."""
    below, right = -matrix.shape[0] % rows, -matrix.shape[1] % columns
    padded = F.pad(matrix, (0, right, 0, below)) if below or right else matrix
    return padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
