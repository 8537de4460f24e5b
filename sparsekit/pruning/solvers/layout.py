"""Which weights of a layer are solved together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.patterns import NM, Pattern


@dataclass(frozen=True, eq=False)
class Layout:
    """The weights of a layer cut into blocks of one size.

    Args:
        index: ``(blocks, size)``, places in the flattened weight; -1 where there is nothing left to fill a block with.
        units: units of the pattern per block.
        width: places per unit; the units come first in a block, and what follows them is never removed.
    """

    index: Tensor
    units: int
    width: int

    @property
    def size(self) -> int:
        """Places in a block."""
        return self.index.shape[1]

    def parts(self, numbers: int) -> Iterator[slice]:
        """Cut the blocks into runs whose ``size x size`` matrices together have at most about ``numbers`` entries."""
        step = max(1, numbers // max(1, self.size**2))
        for start in range(0, len(self.index), step):
            yield slice(start, min(start + step, len(self.index)))

    def gather(self, values: Tensor, part: slice) -> Tensor:
        """``(blocks of part, size)`` of the flattened ``values``, zero where there is nothing."""
        index = self.index[part]
        return values.reshape(-1)[index.clamp(min=0)].masked_fill(index < 0, 0)

    def scatter(self, values: Tensor, part: slice, into: Tensor) -> None:
        """Write ``values`` ``(blocks of part, size)`` to their places in ``into``, flat."""
        index = self.index[part]
        there = index >= 0
        into[index[there]] = values[there].to(into.dtype)

    def share(self, costs: Tensor, part: slice, into: Tensor) -> None:
        """Share out each unit's cost, ``(blocks of part, units)``, among its weights in ``into``, flat."""
        members = self.index[part, : self.units * self.width].reshape(-1, self.units, self.width)
        there = members >= 0
        shares = (costs / there.sum(dim=2).clamp(min=1)).unsqueeze(2).expand(members.shape)
        into[members[there]] = shares[there].to(into.dtype)


def consecutive(numel: int, size: int, device: torch.device) -> Layout:
    """Blocks of ``size`` consecutive weights; each weight is a unit."""
    size = max(1, min(size, numel))
    return Layout(_filled(torch.arange(numel, device=device), size), size, 1)


def by_units(pattern: Pattern, shape: tuple[int, ...], size: int, device: torch.device) -> Layout:
    """Blocks of about ``size`` weights that cut no unit of ``pattern`` and no N:M group; left-over weights in none."""
    members = units_of(pattern, shape, device)
    width = members.shape[1]
    together = pattern.m if isinstance(pattern, NM) else 1
    units = max(1, min(size, members.numel()) // (width * together)) * together
    return Layout(_filled(members.reshape(-1), units * width), units, width)


def by_rows(pattern: Pattern, shape: tuple[int, ...], device: torch.device, *, whole: bool = False) -> Layout:
    """One block per output row, or per set of rows that units of ``pattern`` tie together.

    Args:
        pattern: whose units come first in each block; the left-over weights of the rows follow.
        shape: of the weight.
        device: of the layout.
        whole: tie all rows together.
    """
    members = units_of(pattern, shape, device)
    columns = math.prod(shape[1:])
    rows = torch.zeros(shape[0], dtype=torch.long, device=device) if whole else _tied(members, shape[0], columns)
    of_unit = rows[members[:, 0] // columns] if len(members) else members[:, 0]
    left = torch.ones(shape[0] * columns, dtype=torch.bool, device=device)
    left[members[members >= 0]] = False
    over = left.nonzero().squeeze(1)
    blocks = torch.unique(of_unit)
    units = _stacked(of_unit, members, blocks)
    fixed = _stacked(rows[over // columns], over[:, None], blocks)
    index = torch.cat([units.flatten(1), fixed.flatten(1)], dim=1)
    return Layout(index, units.shape[1], members.shape[1])


def units_of(pattern: Pattern, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The places of each unit's weights in the flattened weight, ``(units, weights)``, -1 where a unit has fewer."""
    high, wide = pattern.grid(shape)
    count = high * wide
    if count == 0:
        return torch.empty(0, 1, dtype=torch.long, device=device)
    numbers = torch.arange(count, device=device).reshape(high, wide)
    unit = torch.zeros(shape, dtype=torch.long, device=device)
    for bit in range(count.bit_length()):  # a pattern spreads choices; so the units' numbers are spread bit by bit
        unit |= pattern.spread((numbers >> bit & 1).bool(), shape).long() << bit
    left = pattern.spread(torch.zeros_like(numbers, dtype=torch.bool), shape)
    places = (~left.reshape(-1)).nonzero().squeeze(1)
    return _stacked(unit.reshape(-1)[places], places[:, None], torch.arange(count, device=device)).flatten(1)


def _stacked(label: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    """``items`` ``(n, width)`` by their label, ``(labels, most per label, width)``, in order, filled up with -1."""
    row = torch.full((int(label.max()) + 1 if len(label) else 1,), -1, dtype=torch.long, device=items.device)
    row[labels[labels < len(row)]] = torch.arange(len(labels), device=items.device)[labels < len(row)]
    found = row[label] >= 0
    label, items = row[label][found], items[found]
    order = torch.argsort(label, stable=True)
    count = torch.bincount(label, minlength=len(labels))
    place = torch.arange(len(label), device=items.device) - (count.cumsum(0) - count)[label[order]]
    most = int(count.max()) if len(count) else 0
    stacked = torch.full((len(labels), most, items.shape[1]), -1, dtype=torch.long, device=items.device)
    stacked[label[order], place] = items[order]
    return stacked


def _filled(places: Tensor, size: int) -> Tensor:
    """``places`` in rows of ``size``, the last one filled up with -1."""
    gap = -len(places) % size
    return torch.cat([places, places.new_full((gap,), -1)]).reshape(-1, size)


def _tied(members: Tensor, rows: int, columns: int) -> Tensor:
    """The lowest row that each row is tied to through units, directly or not, ``(rows,)``."""
    label = torch.arange(rows, device=members.device)
    row = torch.where(members >= 0, members, members[:, :1]) // columns
    while members.numel():
        lowest = label[row].amin(dim=1, keepdim=True).expand_as(row)
        tied = label.scatter_reduce(0, row.reshape(-1), lowest.reshape(-1), "amin")
        if torch.equal(tied, label):
            break
        label = tied
    return label
