"""A penalty between counting weights and summing their magnitudes, made finite where it would be infinitely steep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.norms import root, small, squares, unit_size
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive


@dataclass(frozen=True)
class ModifiedHalf(PenaltyMethod):
    """Adds ``strength`` times the sum of ``f(|w|)`` to the loss, where ``f`` is the square root, and linear near zero.

    ``f(x) = sqrt(x) - sqrt(a) / 2`` from ``a`` on, and ``x / (2 sqrt(a))`` below: continuous with its slope at ``a``, 0
    at 0, and nowhere steeper than ``1 / (2 sqrt(a))``. Small weights are pushed to zero harder than large ones, which
    magnitudes as such do not do. Where units of the pattern are more than one weight, ``x`` is the root mean square of
    a unit, counted as often as it has weights. Unless an allocation is given, all layers are ranked together, and each
    keeps one unit at least.

    That the square root is made harmless near zero is the paper's idea; its exact form could not be verified, so this
    is a variant of it.

    Args:
        strength: what the sum is multiplied by. What is right depends on the loss: the larger, the sparser.
        a: where the line begins, in the units of a weight.
        threshold: without a sparsity, weights, or root mean squares of units, of at most that go, but never the whole
            layer; None = ``a``.

    Raises:
        PruningError: an argument is not above 0.

    Source: Chang, Sha 2018, "Prune Deep Neural Networks With the Modified L_1/2 Penalty", in the variant described
    above; Xu, Zhang, Wang, Chang, Liang 2010, "L_1/2 Regularization", for the square root.
    """

    strength: float = 1e-3
    a: float = 1e-2
    threshold: float | None = None
    default_allocation: ClassVar[Allocation] = Global(minimum=1e-6)
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, a=self.a)
        if self.threshold is not None:
            check_positive(threshold=self.threshold)

    def value(self, magnitudes: Tensor) -> Tensor:
        """Return ``f`` of ``magnitudes``, which are at least 0."""
        near = magnitudes < self.a
        half = math.sqrt(self.a) / 2
        return torch.where(near, magnitudes / (4 * half), torch.where(near, self.a, magnitudes).sqrt() - half)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return the sum of ``f`` over all weights, times the strength."""
        size = unit_size(site.pattern, site.shape)
        return self.strength * size * self.value(magnitudes(site, weight)).sum()

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return squares over the weights of a unit: a unit's score is its mean square."""
        return {site.name: site.read().double().square() / unit_size(site.pattern, site.shape) for site in state.sites}

    def decide(self, state: State, site: Site) -> Tensor:
        """Keep the units that are above the threshold, and at least one."""
        found = magnitudes(site, site.read().double())
        gone = small(found, self.a if self.threshold is None else self.threshold)
        return site.pattern.choose(self.scores(state)[site.name], gone)


def magnitudes(site: Site, weight: Tensor) -> Tensor:
    """Return the root mean square of each unit, ``(units,)``, differentiable; ``|w|`` of single weights."""
    size = unit_size(site.pattern, site.shape)
    return wide(weight).abs().reshape(-1) if size == 1 else root(squares(site.pattern, weight) / size)
