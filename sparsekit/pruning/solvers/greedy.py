"""Remove units of weights one by one, always the cheapest, with exact updates: the optimal brain surgeon in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.pruning.solvers.layout import Layout

CACHED = 1 << 18
"""Entries of the inverses that are in work at a time: every step goes over all of them, so they should stay cached."""
SMALLEST = 16
"""Units below which inverses are not made smaller any more."""


@dataclass(frozen=True)
class Limit:
    """Of each ``group`` neighbouring units at most ``most`` go."""

    group: int = 1
    most: int = 1


@dataclass(frozen=True)
class Removals:
    """What went, in its order.

    Args:
        unit: ``(blocks, steps)``, which unit went; -1 where a block had none left that may go.
        rise: ``(blocks, steps)``, of the loss in that very step.
        alone: ``(blocks, units)``, what each unit's removal from the dense block costs.
    """

    unit: Tensor
    rise: Tensor
    alone: Tensor

    def total(self) -> Tensor:
        """The loss after each unit's removal, all before it included, ``(blocks, units)``."""
        return self._scores(self.rise.cumsum(dim=1))

    def highest(self) -> Tensor:
        """The highest rise up to each unit's removal, ``(blocks, units)``: in this order one greedy search goes on that
        sees all blocks at a time. Later ones count for a trifle more, so that ties do not change the order."""
        trifle = 1 + 1e-12 * torch.arange(self.rise.shape[1], dtype=self.rise.dtype, device=self.rise.device)
        return self._scores(self.rise.cummax(dim=1).values * trifle)

    def _scores(self, by_step: Tensor) -> Tensor:
        """Scores by unit instead of by step; units that never go are above all others of their block."""
        last = by_step[:, -1:] if by_step.shape[1] else by_step.new_zeros(len(by_step), 1)
        scores = torch.cat([last + self.alone, last], dim=1)  # the last column takes the steps without a removal
        unit = torch.where(self.unit < 0, self.alone.shape[1], self.unit)
        return scores.scatter_(1, unit, by_step)[:, :-1]


def unit_costs(inverse: Tensor, weight: Tensor, width: int) -> Tensor:
    """What the removal of each unit alone costs, ``w_Q^T ([F^-1]_QQ)^-1 w_Q / 2``, ``(blocks, units)``.

    Args:
        inverse: ``F^-1`` of each block, ``(blocks, units * width, units * width)``.
        weight: ``(blocks, units * width)``.
        width: weights per unit.
    """
    if width == 1:
        return weight.square() / (2 * inverse.diagonal(dim1=1, dim2=2))
    count, units = len(weight), weight.shape[1] // width
    tiles = inverse.reshape(count, units, width, units, width).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    members = weight.reshape(count, units, width, 1)
    return 0.5 * (members * torch.cholesky_solve(members, torch.linalg.cholesky(tiles))).sum(dim=(2, 3))


def remove_all(inverse: Tensor, weight: Tensor, layout: Layout, limit: Limit = Limit()) -> Removals:
    """Remove unit after unit of every block, the cheapest first, until ``limit`` lets none go.

    Args:
        inverse: ``F^-1`` of each block, ``(blocks, size, size)``.
        weight: ``(blocks, size)``.
        layout: says which weights make a unit.
        limit: what may go.
    """
    used = layout.units * layout.width  # weights that never go take part by way of the inverse alone
    state = _State(inverse[:, :used, :used].clone(), weight[:, :used].clone(), layout.width)
    alone = unit_costs(state.inverse, state.weight, layout.width)
    gone = torch.zeros(len(weight), -(-layout.units // limit.group), dtype=torch.long, device=weight.device)
    units, rises = [], []
    for _ in range(min(layout.units, gone.shape[1] * limit.most)):
        unit, rise = state.remove()
        units.append(unit)
        rises.append(rise)
        if limit.most < limit.group:
            gone.scatter_add_(1, unit.clamp(min=0).unsqueeze(1) // limit.group, (unit >= 0).long().unsqueeze(1))
            state.open &= gone.gather(1, state.unit // limit.group) < limit.most
        state.shrink()
    if not units:
        return Removals(gone[:, :0], alone[:, :0], alone)
    return Removals(torch.stack(units, dim=1), torch.stack(rises, dim=1), alone)


class _State:
    """The part of the inverses and weights that belongs to units that may still go."""

    def __init__(self, inverse: Tensor, weight: Tensor, width: int) -> None:
        self.inverse, self.weight, self.width = inverse, weight, width
        count, units = len(weight), weight.shape[1] // width
        self.unit = torch.arange(units, device=weight.device).expand(count, units)
        self.open = torch.ones(count, units, dtype=torch.bool, device=weight.device)
        self.members = torch.arange(width, device=weight.device)

    def remove(self) -> tuple[Tensor, Tensor]:
        """Remove the cheapest unit of each block; its number and cost, or -1 and 0 where there is none."""
        rise, place = self._costs().min(dim=1)
        none = torch.isinf(rise)
        unit = self.unit.gather(1, place.unsqueeze(1)).squeeze(1).masked_fill(none, -1)
        at = (place * self.width).unsqueeze(1) + self.members  # (blocks, width)
        columns = self.inverse.gather(2, at.unsqueeze(1).expand(-1, self.inverse.shape[1], -1))
        tile = columns.gather(1, at.unsqueeze(2).expand(-1, -1, self.width))
        tile[none] = torch.eye(self.width, dtype=tile.dtype, device=tile.device)
        columns[none] = 0.0
        half = columns / tile if self.width == 1 else _right_solve(columns, tile)
        self.weight.unsqueeze(2).baddbmm_(half, self.weight.gather(1, at).unsqueeze(2), alpha=-1)
        self.inverse.baddbmm_(half, columns.transpose(1, 2), alpha=-1)
        self.open.scatter_(1, place.unsqueeze(1), False)
        return unit, rise.masked_fill(none, 0.0)

    def _costs(self) -> Tensor:
        if self.width == 1:
            costs = self.weight.square() / (2 * self.inverse.diagonal(dim1=1, dim2=2))
        else:
            closed = (~self.open).repeat_interleave(self.width, dim=1)
            self.inverse.diagonal(dim1=1, dim2=2).masked_fill_(closed, 1.0)  # what went is all zeros but for rounding
            costs = unit_costs(self.inverse, self.weight, self.width)
        return costs.masked_fill(~self.open, torch.inf)

    def shrink(self) -> None:
        """Leave out units that cannot go any more, as soon as a quarter of them cannot."""
        left, units = int(self.open.sum(dim=1).max()), self.open.shape[1]
        if units <= SMALLEST or 4 * left > 3 * units:
            return
        order = torch.argsort(~self.open, dim=1, stable=True)[:, :left]
        places = (order.unsqueeze(2) * self.width + self.members).flatten(1)
        rows = self.inverse.gather(1, places.unsqueeze(2).expand(-1, -1, self.inverse.shape[2]))
        self.inverse = rows.gather(2, places.unsqueeze(1).expand(-1, rows.shape[1], -1)).contiguous()
        self.weight = self.weight.gather(1, places)
        self.unit, self.open = self.unit.gather(1, order), self.open.gather(1, order)


def _right_solve(columns: Tensor, tile: Tensor) -> Tensor:
    """``columns @ tile^-1`` per block."""
    return torch.cholesky_solve(columns.transpose(1, 2), torch.linalg.cholesky(tile)).transpose(1, 2)
