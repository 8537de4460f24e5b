"""Compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.offsets import (
    OFFSET_DTYPES,
    check_indices,
    check_offsets,
    column_dtype,
    row_of_each,
)
from sparsekit.formats.strips import kept_rows
from sparsekit.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class CSR(Format):
    """The kept weights row by row, each with its column.

    ``values`` ``(nnz,)``; ``column_indices`` ``(nnz,)``, ascending within a row; ``row_offsets`` ``(rows + 1,)``, int32
    or int64. A column takes 16 bits where the matrix has at most 65536 columns, else 32.

    Source: Tinney and Walker 1967; the format of the Yale Sparse Matrix Package.
    """

    name: ClassVar[str] = "csr"

    column_indices: Tensor
    row_offsets: Tensor

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept every mask."""
        return None

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store each kept weight with its column; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        rows, columns = matrix.shape
        values, indices, offsets = kept_rows(matrix, keep)
        return cls(rows=rows, columns=columns, values=values, column_indices=indices, row_offsets=offsets)

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        dense = self.values.new_zeros(self.rows, self.columns)
        dense[row_of_each(self.row_offsets), self.column_indices.long()] = self.values
        return dense

    def validate(self) -> None:
        """Check that the offsets and columns are in range and in order; see :meth:`Format.validate`."""
        check_offsets(self.row_offsets, self.values.numel(), f"{self} row_offsets")
        check_indices(self.column_indices, self.row_offsets, self.columns, f"{self} column_indices")

    def _values_shape(self) -> tuple[int, ...]:
        return (-1,)

    def _check_parts(self) -> None:
        self._expect("column_indices", tuple(self.values.shape), column_dtype(self.columns))
        self._expect("row_offsets", (self.rows + 1,), *OFFSET_DTYPES)
