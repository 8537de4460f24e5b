"""What a format is: how the kept weights of one matrix are stored."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.mask import Mask
from sparsekit.patterns.base import as_matrix

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that a format can store."""


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
    stored_dtypes: ClassVar[tuple[torch.dtype, ...]] = FLOATING
    """The dtypes that ``values`` may have."""
    typed_by: ClassVar[str] = "values"
    """The part whose dtype is the format's: that of the weight, and of what it is multiplied by."""

    rows: int
    columns: int
    values: Tensor
    """The stored values, padding included; its device is the format's."""

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in self.integers().items() if not 0 <= value < 2**31}
        if wrong:
            raise FormatError(f"{self}: expected sizes from 0 to {2**31 - 1}, got {wrong}")
        self._expect("values", self._values_shape(), *self.stored_dtypes)
        self._check_parts()
        devices = {str(t.device) for t in self.tensors().values()}
        if len(devices) > 1:
            raise FormatError(f"{self}: expected all parts on one device, got {', '.join(sorted(devices))}")

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

    @abstractmethod
    def _values_shape(self) -> tuple[int, ...]:
        """The shape that ``values`` must have; -1 where any size will do."""

    def _check_parts(self) -> None:  # noqa: B027 - a format of values alone has nothing to add
        """Check the shapes and dtypes of the parts other than ``values``; constant time, reads no tensor."""

    def validate(self) -> None:  # noqa: B027 - a format without indices has nothing to add
        """Read every index and check that it is in range and in order.

        A packed weight that came from outside (a file, a state dict) is validated before a kernel sees it.

        Raises:
            FormatError: an index or offset that no ``pack`` writes.
        """

    def tensors(self) -> dict[str, Tensor]:
        """The tensor fields by name."""
        return {name: getattr(self, name) for name in self.tensor_names()}

    def integers(self) -> dict[str, int]:
        """The integer fields by name, ``rows`` and ``columns`` included."""
        return {name: getattr(self, name) for name in self.integer_names()}

    @classmethod
    def tensor_names(cls) -> tuple[str, ...]:
        """The names of the tensor fields, ``values`` first."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.type == "Tensor")

    @classmethod
    def integer_names(cls) -> tuple[str, ...]:
        """The names of the integer fields, ``rows`` and ``columns`` first."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.type == "int")

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], integers: Mapping[str, int]) -> Self:
        """Build a format from what :meth:`tensors` and :meth:`integers` returned.

        Raises:
            FormatError: a part is missing or unknown, or the parts do not belong together.
        """
        parts: dict[str, Any] = {**tensors, **integers}
        expected = {f.name for f in dataclasses.fields(cls)}
        if parts.keys() != expected:
            raise FormatError(f"{cls.name}: expected the parts {sorted(expected)}, got {sorted(parts)}")
        return cls(**parts)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weight, in which it is multiplied."""
        return self.typed.dtype

    @property
    def typed(self) -> Tensor:
        """The part that :attr:`typed_by` names."""
        part: Tensor = getattr(self, self.typed_by)
        return part

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_signed, (type(self), as_signed(self.tensors()), self.integers())

    def __repr__(self) -> str:
        sizes = "".join(f", {n}={v}" for n, v in self.integers().items() if n not in ("rows", "columns"))
        return f"{type(self).__name__}({self.rows} x {self.columns}{sizes}, {self.dtype})"

    @classmethod
    def _kept(cls, weight: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """Check the arguments of :meth:`pack`; return weight and mask as contiguous matrices ``(rows, columns)``."""
        if weight.dtype not in FLOATING:
            raise FormatError(
                f"{cls.name}: expected a weight of float64, float32, bfloat16 or float16, got {weight.dtype}"
            )
        mask.check(weight, f"{cls.name} weight")
        refusal = cls.accepts(mask)
        if refusal is not None:
            raise FormatError(f"{cls.name} refuses {mask}: {refusal}")
        return as_matrix(weight.detach()).contiguous(), as_matrix(mask.keep).contiguous()

    def _expect(self, part: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
        """Raise :class:`FormatError` unless ``part`` has ``shape`` (-1 = any) and one of ``dtypes``."""
        tensor: Tensor = getattr(self, part)
        fits = tensor.dim() == len(shape) and all(want in (-1, got) for want, got in zip(shape, tensor.shape))
        if not fits or tensor.dtype not in dtypes:
            wanted = " or ".join(str(d) for d in dtypes)
            raise FormatError(
                f"{self}: expected {part} of shape {shape} in {wanted}, got {tuple(tensor.shape)} in {tensor.dtype}"
            )


def as_signed(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, bool]]:
    """Each tensor, uint16 seen as int16, and whether it was: torch cannot unpickle uint16."""
    return {n: (t.view(torch.int16), True) if t.dtype == torch.uint16 else (t, False) for n, t in tensors.items()}


def as_unsigned(tensors: Mapping[str, tuple[Tensor, bool]]) -> dict[str, Tensor]:
    """Inverse of :func:`as_signed`."""
    return {n: t.view(torch.uint16) if unsigned else t for n, (t, unsigned) in tensors.items()}


def _from_signed(cls: type[Format], tensors: Mapping[str, tuple[Tensor, bool]], integers: Mapping[str, int]) -> Format:
    return cls.from_parts(as_unsigned(tensors), integers)
