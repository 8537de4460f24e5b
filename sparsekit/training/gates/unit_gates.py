"""Gated methods whose gates belong to units of the pattern."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.gates.base import GatedMethod
from sparsekit.training.schedules import Linear
from sparsekit.training.site import Site
from sparsekit.training.state import State
from sparsekit.training.units import gather, owners, spread, unit_count

OWNER = "owner"
PRESSURE = "pressure"
SPAN = 7.0
"""How far the logarithm of the pressure gets in a run that only raises it."""
ARRIVAL = 0.75
"""Share of a run after which as many units are to be closed as go in the end."""


class UnitGates(GatedMethod):
    """Ranks units by what their gates say; without a sparsity, those above a fixed number stay.

    A unit is one of the pattern's: a weight by default, a filter, a block. Where a pattern fixes its own sparsity, each
    weight is one. What no whole unit covers has no gate, and stays.

    Where it is known how many units go, costs are multiplied by a pressure that rises while fewer are closed than a
    line from 0 to that number asks, and falls while more are; so gates decide before the last step, which only corrects
    the count. The papers leave this to a search for the strength of the cost.
    """

    learns_sparsity: ClassVar[bool] = True
    default_allocation: ClassVar[Allocation] = Global()

    @abstractmethod
    def importance(self, site: Site) -> Tensor:
        """Return what units are ranked by, ``(units,)``, higher = keep; without noise."""

    @property
    @abstractmethod
    def cut(self) -> float:
        """What the importance of a unit has to be above for it to stay, where no sparsity is given."""

    def anneal(self, state: State, step: int) -> None:
        """Raise or lower the pressure."""
        asked = sparsity_asked(state)
        if asked is None or not step:
            state.numbers[PRESSURE] = 1.0
            return
        closed = [self.importance(site) <= self.cut for site in state.sites]
        share = sum(int(one.sum()) for one in closed) / max(1, sum(one.numel() for one in closed))
        missing = self.wanted(state, asked, step) - share
        state.numbers[PRESSURE] *= math.exp(math.copysign(SPAN / state.steps, missing))
        state.note(PRESSURE, state.numbers[PRESSURE])

    def wanted(self, state: State, asked: float, step: int) -> float:
        """Return the share of units that should be closed at ``step``, where ``asked`` go in the end."""
        return Linear(0.0, asked, 0.0, ARRIVAL * state.steps).value(step)

    def pressure(self, state: State) -> float:
        """Return what costs are multiplied by."""
        return float(state.numbers[PRESSURE])

    def share_of(self, state: State) -> float:
        """Return one divided by the number of all gates: a cost per gate that is 1 in total, whatever the model."""
        return 1.0 / max(1, sum(self.importance(site).numel() for site in state.sites))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return each unit's importance, shared out evenly among its weights, so that the pattern's sum restores it."""
        return {site.name: over_weights(site, self.importance(site) / unit_sizes(site)) for site in state.sites}

    def decide(self, state: State, site: Site) -> Tensor:
        """Return the weights of units above the cut, and those that have no gate."""
        return over_weights(site, self.importance(site) > self.cut)


def sparsity_asked(state: State) -> float | None:
    """Return the fraction of weights that go in the end, or None where the method is to learn it."""
    if not state.pattern.fixes_sparsity:
        return state.sparsity
    gone = sum(state.pattern.sparsity(None, site.shape) * site.keep.numel() for site in state.sites)
    return gone / max(1, sum(site.keep.numel() for site in state.sites))


def number_units(state: State, site: Site) -> int:
    """Return how many units ``site`` has, and remember which one each weight belongs to."""
    owner = owners(state.pattern, site.shape, site.keep.device)
    if unit_count(owner) != owner.numel():  # otherwise each weight is its own unit, in order
        site.tensors[OWNER] = owner
    return unit_count(owner)


def over_weights(site: Site, units: Tensor, left_over: float = 1.0) -> Tensor:
    """Return the value of each weight's unit, of the weight's shape, differentiable.

    Args:
        site: one whose units are numbered.
        units: ``(units,)``.
        left_over: value of weights that have no gate.
    """
    owner = site.tensors.get(OWNER)
    return units.reshape(site.shape) if owner is None else spread(units, owner, left_over)


def over_units(site: Site, values: Tensor) -> Tensor:
    """Return the sum of ``values``, of the weight's shape, over each unit, ``(units,)``, differentiable."""
    owner = site.tensors.get(OWNER)
    return values.flatten() if owner is None else gather(values, owner)


def unit_sizes(site: Site) -> Tensor:
    """Return how many weights each unit has, ``(units,)``, at least float32."""
    return over_units(site, precise(torch.ones_like(site.keep, dtype=site.weight.dtype)))


def precise(values: Tensor) -> Tensor:
    """Return ``values`` in at least float32: gates move by less than half precision resolves."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def filled(count: int, value: float, weight: Tensor) -> Tensor:
    """Return ``count`` gates of ``value``, on the weight's device, in at least float32."""
    return precise(weight.new_empty(0)).new_full((count,), value)
