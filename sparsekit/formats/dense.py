"""Every weight stored, zeros included: the format to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from sparsekit.formats.base import Format, Refusal
from sparsekit.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Format):
    """The matrix itself, ``values`` ``(rows, columns)`` with +0.0 where the mask removes."""

    name: ClassVar[str] = "dense"

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept every mask."""
        return None

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Copy the weight with +0.0 where the mask removes; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        return cls(rows=matrix.shape[0], columns=matrix.shape[1], values=matrix.masked_fill(~keep, 0.0))

    def unpack(self) -> Tensor:
        """Return a copy of the matrix."""
        return self.values.clone()

    def _values_shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)
