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
from sparsekit.formats.strips import joined, kept_rows, strips
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
        values, indices, offsets = kept_rows(matrix, keep)
        runs = [_Run.of(values, indices, offsets[s.start : s.stop + 1].long()) for s in strips(rows, columns)]
        slots = torch.tensor([[run.slots(bits) for bits in WIDTHS] for run in runs], device="cpu").sum(dim=0)
        bits = min(WIDTHS, key=lambda width: int(slots[WIDTHS.index(width)]) * (8 * weight.element_size() + width))
        stored, distances, firsts, counts = zip(*[run.in_chunks(bits) for run in runs])
        return cls(
            rows=rows,
            columns=columns,
            values=torch.cat(stored),
            bits=bits,
            distances=torch.cat(distances),
            first_columns=joined([first.to(column_dtype(columns)) for first in firsts]),
            chunk_offsets=offsets_from_counts(torch.cat(counts)),
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


@dataclass(frozen=True)
class _Run:
    """The kept weights of some rows: ``values`` and ``indices`` ``(n,)``, and where each row begins, int64."""

    values: Tensor
    indices: Tensor
    edges: Tensor

    @classmethod
    def of(cls, values: Tensor, indices: Tensor, offsets: Tensor) -> _Run:
        """Take the rows between ``offsets``, int64, into the weights of all."""
        first, last = int(offsets[0]), int(offsets[-1])
        return cls(values[first:last], indices[first:last], offsets - first)

    def slots(self, bits: int) -> int:
        """Slots that the weights take, their escapes included."""
        gap = self._gaps(self.indices.long())
        limit = 2**bits - 1
        return gap.numel() + int(gap[gap >= limit].div_(limit, rounding_mode="floor").sum())

    def in_chunks(self, bits: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, packed distances and first columns (int64) of the chunks, and how many there are in each row."""
        limit, column, counts = 2**bits - 1, self.indices.long(), self.edges.diff()
        gap = self._gaps(column)
        far = (gap >= limit).nonzero().squeeze(1)
        escapes = gap[far] // limit
        gap[far] -= limit * escapes
        slots = counts.index_add(0, torch.searchsorted(self.edges[1:], far, right=True), escapes)
        chunks = -(-slots // CHUNK)
        step = torch.ones_like(gap)
        step[far] += escapes
        used = counts > 0
        step[self.edges[:-1][used][1:]] += (CHUNK * chunks - slots)[used][:-1]  # the row before is filled up
        end = step.cumsum(0) - 1  # the slot of a weight, behind those of its escapes
        total = int(chunks.sum())
        values = self.values.new_zeros(total * CHUNK)
        values[end] = self.values
        codes = torch.zeros(total * CHUNK, dtype=torch.uint8, device=gap.device)
        codes[end] = gap.to(torch.uint8)
        behind = torch.arange(int(escapes.sum()), device=gap.device) - (escapes.cumsum(0) - escapes).repeat_interleave(
            escapes
        )
        codes[(end[far] - escapes).repeat_interleave(escapes) + behind] = limit
        start = CHUNK * torch.arange(total, device=gap.device)
        owner = torch.searchsorted(end, start)  # the weight whose slots the chunk begins with
        first = column[owner] - gap[owner] - limit * (end[owner] - start)
        return values.reshape(total, CHUNK), pack_fields(codes.reshape(total, CHUNK), bits), first, chunks

    def _gaps(self, column: Tensor) -> Tensor:
        """The distance of each weight from the one before; 0 at the start of a row."""
        gap = torch.zeros_like(column)
        torch.sub(column[1:], column[:-1], out=gap[1:])
        gap[self.edges[:-1][self.edges.diff() > 0]] = 0
        return gap
