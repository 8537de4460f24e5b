"""Compressed sparse rows whose columns are stored as short distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import pack_fields, unpack_fields
from sparsekit.formats.offsets import (
    OFFSET_DTYPES,
    check_indices,
    check_offsets,
    column_dtype,
    offsets_from_counts,
    row_of_each,
)
from sparsekit.mask import Mask

CHUNK = 8
"""Values that are stored side by side, with their distances in one word."""

WIDTHS = (4, 8)
"""Bits that a distance may have."""


@dataclass(frozen=True, eq=False, repr=False)
class DeltaCSR(Format):
    """The kept weights row by row in chunks of 8, each with its distance from the column of the one before.

    ``values`` ``(chunks, 8)``; ``distances`` uint8 ``(chunks, bits)``: eight of ``bits`` bits, the lowest first;
    ``first_columns`` ``(chunks,)``, uint16 where the matrix has at most 65536 columns, else int32: a value's column is
    that of its chunk plus the distances of the chunk up to its own; ``chunk_offsets`` ``(rows + 1,)``, int32 or int64.

    The largest distance is an escape: it moves on by that much and stores no weight, so that farther weights are
    reached. A distance of 0 is a weight's only at the start of a row or after an escape; elsewhere it fills up the last
    chunk of a row. Slots without a weight hold +0.0, and every slot's column is in range. ``bits`` is 4 or 8, whichever
    makes the weight smaller. Smaller than CSR, and from a sparsity of about nine tenths on than a bitmask.

    Source: Macko and Boza 2025, "MACKO: Sparse Matrix-Vector Multiplication for Low Sparsity", for short distances.
    """

    name: ClassVar[str] = "delta"

    bits: int
    distances: Tensor
    first_columns: Tensor
    chunk_offsets: Tensor

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept every mask."""
        return None

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store the kept weights and their distances; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        rows, columns = matrix.shape
        row, column = keep.nonzero(as_tuple=True)
        gap = torch.zeros_like(column)
        gap[1:] = torch.where(row.diff() == 0, column.diff(), 0)
        bits = min(WIDTHS, key=lambda width: int(_slots(gap, width).sum()) * (8 * weight.element_size() + width))
        limit = 2**bits - 1
        end = _slots(gap, bits).cumsum(0) - 1  # the slot of a weight, behind those of its escapes
        owner = torch.arange(row.numel(), device=row.device).repeat_interleave(_slots(gap, bits))
        behind = end[owner] - torch.arange(owner.numel(), device=row.device)
        code = torch.where(behind == 0, gap[owner] % limit, limit)
        reached = column[owner] - torch.where(behind == 0, 0, gap[owner] % limit + limit * (behind - 1))
        counts = torch.bincount(row[owner], minlength=rows)
        offsets = offsets_from_counts(-(-counts // CHUNK))
        place = end[owner] - behind + (CHUNK * offsets[:-1].long() - counts.cumsum(0) + counts)[row[owner]]
        chunks = int(offsets[-1])
        values = matrix.new_zeros(chunks * CHUNK)
        values[place[end]] = matrix[row, column]
        codes = torch.zeros(chunks * CHUNK, dtype=torch.uint8, device=row.device)
        codes[place] = code.to(torch.uint8)
        return cls(
            rows=rows,
            columns=columns,
            values=values.reshape(chunks, CHUNK),
            bits=bits,
            distances=pack_fields(codes.reshape(chunks, CHUNK), bits),
            first_columns=(reached - code)[place % CHUNK == 0].to(column_dtype(columns)),
            chunk_offsets=offsets,
        )

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        row, column, stored = self._slots()
        dense = self.values.new_zeros(self.rows, self.columns)
        dense[row[stored], column[stored]] = self.values[stored]
        return dense

    def validate(self) -> None:
        """Check that all columns are in range and in order, and that slots without a weight hold 0.

        See :meth:`Format.validate`.
        """
        check_offsets(self.chunk_offsets, self.values.shape[0], f"{self} chunk_offsets")
        row, column, stored = self._slots()
        outside = (column < 0) | (column >= self.columns)
        if bool(outside.any()):
            raise FormatError(
                f"{self} distances: expected columns in [0, {self.columns}), got {int(column[outside][0])}"
            )
        counts = torch.bincount(row[stored], minlength=self.rows)
        check_indices(column[stored], offsets_from_counts(counts), self.columns, f"{self} distances")
        if bool((self.values[~stored] != 0).any()):
            raise FormatError(f"{self} values: expected 0 in slots without a weight, got some that are not")

    def _slots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of every slot its row and column, int64 ``(chunks, 8)``, and whether it stores a weight."""
        code = unpack_fields(self.distances, self.bits, CHUNK).long()
        column = self.first_columns.long().unsqueeze(1) + code.cumsum(1)
        row = row_of_each(self.chunk_offsets).unsqueeze(1).expand_as(column)
        escape = code == 2**self.bits - 1
        follows = torch.ones_like(escape).flatten()
        follows[1:] = escape.flatten()[:-1] | (row.flatten().diff() != 0)
        return row, column, ~escape & ((code != 0) | follows.reshape(code.shape))

    def _values_shape(self) -> tuple[int, ...]:
        if self.bits not in WIDTHS:
            raise FormatError(f"{self}: expected distances of {' or '.join(map(str, WIDTHS))} bits")
        return (-1, CHUNK)

    def _check_parts(self) -> None:
        self._expect("distances", (self.values.shape[0], self.bits), torch.uint8)
        self._expect("first_columns", (self.values.shape[0],), column_dtype(self.columns))
        self._expect("chunk_offsets", (self.rows + 1,), *OFFSET_DTYPES)


def _slots(gap: Tensor, bits: int) -> Tensor:
    """Slots that each weight takes, its escapes included."""
    slots: Tensor = gap // (2**bits - 1) + 1
    return slots
