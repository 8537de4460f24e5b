"""N of every M consecutive inputs, stored without a pointer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import pack_fields, unpack_fields
from sparsekit.formats.strips import strips
from sparsekit.mask import Mask
from sparsekit.patterns import NM


@dataclass(frozen=True, eq=False, repr=False)
class NMPacked(Format):
    """``n`` values of every group of ``m`` consecutive columns, each with its position in the group.

    ``values`` ``(rows, groups * n)``; ``positions`` uint8 ``(rows, ceil(groups * n * b / 8))``: the position of value
    ``i`` of a row takes ``b = ceil(log2 m)`` bits, the lowest first, from bit ``i * b`` of the row on, where bit ``j``
    is bit ``j % 8`` of byte ``j // 8``; positions ascend within a group. A group that keeps fewer than ``n`` is filled
    up with +0.0 at unused positions. ``tail`` ``(rows, columns % m)`` holds the columns that fill no group, dense.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3.1.
    """

    name: ClassVar[str] = "nm"

    n: int
    m: int
    positions: Tensor
    tail: Tensor

    @classmethod
    def accepts(cls, mask: Mask) -> Refusal | None:
        """Accept masks whose pattern is NM with groups of at most 256."""
        if not isinstance(mask.pattern, NM):
            return Refusal(f"it stores NM patterns only, and this is {mask.pattern}")
        return None if mask.pattern.m <= 256 else Refusal(f"it stores positions in 8 bits, and m is {mask.pattern.m}")

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store ``n`` values and positions per group; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        assert isinstance(mask.pattern, NM)
        n, m = mask.pattern.n, mask.pattern.m
        rows, columns = matrix.shape
        grouped = columns - columns % m
        parts = [_stored(matrix[s, :grouped], keep[s, :grouped], n, m) for s in strips(rows, columns)]
        values, positions = zip(*parts)
        return cls(
            rows=rows,
            columns=columns,
            values=torch.cat(values),
            n=n,
            m=m,
            positions=torch.cat(positions),
            tail=matrix[:, grouped:].masked_fill(~keep[:, grouped:], 0.0),
        )

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        grouped = self.columns - self.columns % self.m
        first = torch.arange(0, self.rows * grouped, self.m, device=self.values.device)
        dense = self.values.new_zeros(self.rows * grouped)
        dense[first.reshape(self.rows, grouped // self.m, 1) + self._positions()] = self.values.reshape(
            self.rows, grouped // self.m, self.n
        )
        return torch.cat([dense.reshape(self.rows, grouped), self.tail], dim=1)

    def validate(self) -> None:
        """Check that the positions are in range and ascend within each group; see :meth:`Format.validate`."""
        positions = self._positions()
        if bool((positions >= self.m).any()):
            raise FormatError(f"{self} positions: expected positions in [0, {self.m}), got {int(positions.max())}")
        if bool((positions.diff(dim=2) <= 0).any()):
            raise FormatError(f"{self} positions: expected ascending positions in each group, got some that do not")

    def _positions(self) -> Tensor:
        """The positions, int64 ``(rows, groups, n)``."""
        positions = unpack_fields(self.positions, _position_bits(self.m), self.values.shape[1])
        return positions.long().reshape(self.rows, self.columns // self.m, self.n)

    def _values_shape(self) -> tuple[int, ...]:
        if not 1 <= self.n <= self.m <= 256:
            raise FormatError(f"{self}: expected 1 <= n <= m <= 256")
        return (self.rows, self.columns // self.m * self.n)

    def _check_parts(self) -> None:
        bits = self.columns // self.m * self.n * _position_bits(self.m)
        self._expect("positions", (self.rows, -(-bits // 8)), torch.uint8)
        self._expect("tail", (self.rows, self.columns % self.m), self.values.dtype)


def _position_bits(m: int) -> int:
    return (m - 1).bit_length()


def _stored(matrix: Tensor, keep: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """The values of whole groups, ``(rows, groups * n)``, and their positions, packed."""
    rows, width = matrix.shape
    stored = keep
    if int(torch.count_nonzero(keep)) * m != keep.numel() * n:  # some group keeps fewer than it may
        stored = _fill_groups(keep.reshape(rows, width // m, m), n)
        matrix = matrix.masked_fill(~keep, 0.0)
    place = stored.reshape(-1).nonzero().squeeze(1)
    values = matrix.reshape(-1)[place].reshape(rows, width // m * n)
    positions = place.remainder_(m).to(torch.uint8).reshape(values.shape)
    return values, pack_fields(positions, _position_bits(m))


def _fill_groups(keep: Tensor, n: int) -> Tensor:
    """Add the lowest unused positions to each group of ``keep`` ``(rows, groups, m)`` until it holds exactly ``n``."""
    kept = keep.cumsum(dim=2, dtype=torch.int16)
    unused = torch.arange(1, keep.shape[2] + 1, dtype=torch.int16, device=keep.device) - kept
    return keep | (unused <= n - kept[:, :, -1:])
