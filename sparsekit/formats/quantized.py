"""What a format of 8-bit weights is: integers, and one step per output.

These are no exact inverses of packing, so they stand in a family of their own: a weight is rounded to the nearest
multiple of its row's step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import FLOATING, Format
from sparsekit.mask import Mask

MOST = 127
"""The largest integer that stands for a weight; the same above zero and below."""

_SCALE_BITS = {torch.float64: 46, torch.float32: 17, torch.bfloat16: 8, torch.float16: 11}
"""Significant bits of a scale: 7 fewer than those of a number, so that its multiples are numbers again; all in 16-bit
dtypes, which have none to spare."""


@dataclass(frozen=True, eq=False, repr=False)
class Quantized(Format):
    """Kept weights as int8 ``values``, placed as in the format :attr:`exact`, and ``scales`` ``(rows,)``.

    Weight ``W[r, c]`` is ``scales[r] * q`` for an integer ``q`` in [-127, 127]; a scale is the largest size in its row
    over 127, rounded up to fewer bits. ``unpack`` differs from the packed weight by at most half a step, removed
    weights stay zeros, and packing what was unpacked gives the same parts again; in 16-bit dtypes up to the rounding of
    their numbers. The dtype of the format, which is that of the layer, is the one of ``scales``.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 2; symmetric, per output channel.
    """

    exact: ClassVar[type[Format]]
    """The format whose places the integers take."""
    stored_dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.int8,)
    typed_by: ClassVar[str] = "scales"

    scales: Tensor

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Round the kept weights and store the integers; see :meth:`Format.pack`.

        Raises:
            FormatError: a kept weight is not finite, or see :meth:`Format.pack`.
        """
        matrix, keep = cls._kept(weight, mask)
        kept = matrix.masked_fill(~keep, 0.0).double()
        if not bool(kept.isfinite().all()):
            raise FormatError(f"{cls.name}: expected weights that are finite, got some that are not")
        size = kept.abs().amax(dim=1) if matrix.shape[1] else kept.new_zeros(matrix.shape[0])
        scales = _rounded_up(size / MOST, matrix.dtype)
        steps = scales.double().masked_fill(scales == 0, 1.0)
        # integers up to 256 are numbers in every floating dtype
        integers = (kept / steps[:, None]).round_().to(torch.bfloat16)
        stored = cls.exact.pack(integers.reshape(mask.shape), mask)
        parts = {**stored.tensors(), "values": stored.values.to(torch.int8), "scales": scales}
        return cls.from_parts(parts, stored.integers())

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix of the integers times their scales."""
        return self.integer_matrix(self.dtype) * self.scales[:, None]

    def integer_matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix of the integers, in a floating dtype."""
        parts: Mapping[str, Tensor] = {n: t for n, t in self.tensors().items() if n != "scales"}
        return self.exact.from_parts({**parts, "values": self.values.to(dtype)}, self.integers()).unpack()

    def validate(self) -> None:
        """Check the places, the integers, and that scales are finite and not negative; see :meth:`Format.validate`."""
        super().validate()
        if bool((self.values < -MOST).any()):
            raise FormatError(f"{self} values: expected integers from {-MOST} to {MOST}, got {-MOST - 1}")
        if not bool((self.scales.isfinite() & (self.scales >= 0)).all()):
            raise FormatError(f"{self} scales: expected numbers from 0 on, got some that are not")

    def _check_parts(self) -> None:
        super()._check_parts()
        self._expect("scales", (self.rows,), *FLOATING)


def _rounded_up(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The least numbers of ``dtype`` that have at most ``_SCALE_BITS`` and are not below ``scales``, float64."""
    limits = torch.finfo(dtype)
    _, exponent = torch.frexp(scales)
    smallest = round(math.log2(limits.smallest_normal) + math.log2(limits.eps))
    unit = torch.ldexp(torch.ones_like(scales), (exponent - _SCALE_BITS[dtype]).clamp(min=smallest))
    return (torch.ceil(scales / unit) * unit).to(dtype)
