"""What a format is: how the kept weights of one matrix are stored."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Self

from sparsekit.mask import Mask


@dataclass(frozen=True)
class Refusal:
    """One sentence that says why something is not done; the one way to say no."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, eq=False)
class Format(ABC):
    """The kept weights of one matrix ``(rows, columns)`` = (outputs, inputs), stored as tensors and integers.

    Subclasses are frozen dataclasses whose fields are tensors and ints only. ``pack`` and ``unpack`` are exact
    inverses: ``unpack(pack(weight, mask))`` is bit for bit ``weight`` where the mask keeps and +0.0 elsewhere.
    """

    name: ClassVar[str]

    rows: int
    columns: int
    values: Tensor
    """The stored values, padding included; its dtype and device are the format's."""

    @classmethod
    @abstractmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Return None where this format can store ``mask``, else the reason why not."""

    @classmethod
    @abstractmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store the kept weights.

        Args:
            weight: ``(out, in, ...)``, seen as the matrix ``(out, in * ...)``.
            mask: a mask of the same shape and device that :meth:`accepts` does not refuse.

        Raises:
            FormatError: the format refuses the mask.
            MaskError: the mask does not belong to the weight.
        """

    @abstractmethod
    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensor fields by name."""
        return {n: v for n, v in self._fields() if isinstance(v, Tensor)}

    def integers(self) -> dict[str, int]:
        """The integer fields by name, ``rows`` and ``columns`` included."""
        return {n: v for n, v in self._fields() if not isinstance(v, Tensor)}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], integers: Mapping[str, int]) -> Self:
        """Build a format from what :meth:`tensors` and :meth:`integers` returned."""
        return cls(**tensors, **integers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def _fields(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]
