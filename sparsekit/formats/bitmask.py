"""One bit per weight says whether it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import pack_fields, unpack_fields
from sparsekit.formats.offsets import OFFSET_DTYPES, check_offsets, offsets_from_counts
from sparsekit.formats.strips import joined, strips
from sparsekit.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Bitmask(Format):
    """The kept weights row by row, and a map of one bit per weight.

    ``values`` ``(nnz,)``; ``bits`` uint16 ``(rows, ceil(columns / 16))``: bit ``j`` of word ``g`` stands for column
    ``16 g + j``, spare bits are 0; ``row_offsets`` ``(rows + 1,)``, int32 or int64. Smaller than CSR below a sparsity
    of 15/16.
    """

    name: ClassVar[str] = "bitmask"

    bits: Tensor
    row_offsets: Tensor

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept every mask."""
        return None

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store the kept weights and the map; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        rows, columns = matrix.shape
        parts = [(matrix[s][keep[s]], _pack_words(keep[s]), keep[s].sum(dim=1)) for s in strips(rows, columns)]
        values, bits, counts = zip(*parts)
        return cls(
            rows=rows,
            columns=columns,
            values=torch.cat(values),
            bits=joined(bits),
            row_offsets=offsets_from_counts(torch.cat(counts)),
        )

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        dense = self.values.new_zeros(self.rows, self.columns)
        dense[_unpack_words(self.bits)[:, : self.columns]] = self.values
        return dense

    def validate(self) -> None:
        """Check that the map holds as many bits per row as there are values; see :meth:`Format.validate`."""
        check_offsets(self.row_offsets, self.values.numel(), f"{self} row_offsets")
        flags = _unpack_words(self.bits)
        if bool(flags[:, self.columns :].any()):
            raise FormatError(f"{self} bits: expected spare bits of 0, got some that are 1")
        wrong = (flags.sum(dim=1) != self.row_offsets.diff()).nonzero()
        if wrong.numel():
            row = int(wrong[0])
            stored, marked = int(self.row_offsets.diff()[row]), int(flags[row].sum())
            raise FormatError(f"{self} bits: expected {stored} bits in row {row} as row_offsets say, got {marked}")

    def _values_shape(self) -> tuple[int, ...]:
        return (-1,)

    def _check_parts(self) -> None:
        self._expect("bits", (self.rows, -(-self.columns // 16)), torch.uint16)
        self._expect("row_offsets", (self.rows + 1,), *OFFSET_DTYPES)


def _pack_words(flags: Tensor) -> Tensor:
    """Bool ``(rows, n)`` to uint16 ``(rows, ceil(n / 16))``."""
    halves = pack_fields(F.pad(flags.to(torch.uint8), (0, -flags.shape[1] % 16)), 1).to(torch.int32)
    return (halves[:, 0::2] | (halves[:, 1::2] << 8)).to(torch.uint16)


def _unpack_words(words: Tensor) -> Tensor:
    """Inverse of :func:`_pack_words`, spare bits included: bool ``(rows, 16 * words)``."""
    rows, wide = words.shape[0], words.to(torch.int32)
    halves = torch.stack([wide & 0xFF, wide >> 8], dim=2).to(torch.uint8)
    return unpack_fields(halves.reshape(rows, 2 * words.shape[1]), 1, 16 * words.shape[1]).bool()
