"""N of every M consecutive inputs, stored without a pointer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bits import pack_bits, unpack_bits
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
        """Accept masks whose pattern is NM."""
        return (
            None if isinstance(mask.pattern, NM) else Refusal(f"it stores NM patterns only, and this is {mask.pattern}")
        )

    @classmethod
    def pack(cls, weight: Tensor, mask: Mask) -> Self:
        """Store ``n`` values and positions per group; see :meth:`Format.pack`."""
        matrix, keep = cls._kept(weight, mask)
        assert isinstance(mask.pattern, NM)
        n, m = mask.pattern.n, mask.pattern.m
        rows, columns = matrix.shape
        masked = matrix.masked_fill(~keep, 0.0)
        grouped = columns - columns % m
        stored = _fill_groups(keep[:, :grouped].reshape(rows, grouped // m, m), n)
        _, _, position = stored.nonzero(as_tuple=True)
        return cls(
            rows=rows,
            columns=columns,
            values=masked[:, :grouped][stored.reshape(rows, grouped)].reshape(rows, grouped // m * n),
            n=n,
            m=m,
            positions=_pack_positions(position.reshape(rows, grouped // m * n), m),
            tail=masked[:, grouped:].contiguous(),
        )

    def unpack(self) -> Tensor:
        """Return the dense ``(rows, columns)`` matrix, bit for bit."""
        groups = self.columns // self.m
        dense = self.values.new_zeros(self.rows, groups, self.m)
        values = self.values.reshape(self.rows, groups, self.n)
        dense.scatter_(2, self._positions(), values)
        return torch.cat([dense.reshape(self.rows, groups * self.m), self.tail], dim=1)

    def validate(self) -> None:
        """Check that the positions are in range and ascend within each group; see :meth:`Format.validate`."""
        positions = self._positions()
        if bool((positions >= self.m).any()):
            raise FormatError(f"{self} positions: expected positions in [0, {self.m}), got {int(positions.max())}")
        if bool((positions.diff(dim=2) <= 0).any()):
            raise FormatError(f"{self} positions: expected positions that ascend within each group")

    def _positions(self) -> Tensor:
        """The positions, int64 ``(rows, groups, n)``."""
        positions = _unpack_positions(self.positions, self.values.shape[1], self.m)
        return positions.reshape(self.rows, self.columns // self.m, self.n)

    def _values_shape(self) -> tuple[int, ...]:
        if not 1 <= self.n <= self.m:
            raise FormatError(f"{self}: expected 1 <= n <= m")
        return (self.rows, self.columns // self.m * self.n)

    def _check_parts(self) -> None:
        bits = self.columns // self.m * self.n * _position_bits(self.m)
        self._expect("positions", (self.rows, -(-bits // 8)), torch.uint8)
        self._expect("tail", (self.rows, self.columns % self.m), self.values.dtype)


def _position_bits(m: int) -> int:
    return (m - 1).bit_length()


def _fill_groups(keep: Tensor, n: int) -> Tensor:
    """Add the lowest unused positions to each group of ``keep`` ``(rows, groups, m)`` until it holds exactly ``n``."""
    room = n - keep.sum(dim=2, keepdim=True)
    return keep | ((~keep).cumsum(dim=2) <= room)


def _pack_positions(positions: Tensor, m: int) -> Tensor:
    bits = _position_bits(m)
    shifts = torch.arange(bits, device=positions.device)
    flags = (positions.unsqueeze(2) >> shifts) & 1
    return pack_bits(flags.reshape(positions.shape[0], positions.shape[1] * bits).bool(), torch.uint8)


def _unpack_positions(packed: Tensor, count: int, m: int) -> Tensor:
    bits = _position_bits(m)
    shifts = torch.arange(bits, device=packed.device)
    flags = unpack_bits(packed, count * bits).reshape(packed.shape[0], count, bits)
    return (flags.long() << shifts).sum(dim=2)
