"""What is weak decays, what is strong grows, and the two pay for each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.patterns import Filter, Pattern
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive
from sparsekit.training.units import gather, owners, spread


@dataclass(frozen=True)
class AutoBalanced(PenaltyMethod):
    """Adds ``alpha * L * |F|^2`` over the filters that would go now, and rewards the others with exactly that much.

    With ``M`` the L1 norm of a filter and ``theta`` that of the smallest one that stays in the layer, ``L`` is
    ``1 + log(theta / M)`` for those that would go and ``-1 - log(M / theta)`` for those that stay, which have a factor
    ``tau`` in place of ``alpha``, such that the term of each layer is 0. So the layer's capacity moves from the weak to
    the strong. ``L`` and ``tau`` are constants of the step: the gradient is ``2 * alpha * L * w``. Any unit of a
    pattern can take the place of the filter.

    Where a pattern compares units in groups, a unit that goes may be larger than ``theta``; its logarithm counts as 0.
    A layer in which nothing stays has nothing to reward: its term is the first alone.

    Args:
        alpha: strength; the paper's depends on the network, this is one for runs of some hundred steps.

    Raises:
        PruningError: ``alpha`` is not above 0.

    Source: Ding, Ding, Han, Tang 2018, "Auto-balanced Filter Pruning for Efficient Convolutional Neural Networks".
    """

    alpha: float = 0.02
    default_pattern: ClassVar[Pattern] = Filter()

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha)

    def prepare(self, state: State) -> None:
        """Find out which unit each weight belongs to."""
        for site in state.sites:
            site.tensors["owner"] = owners(state.pattern, site.shape, site.keep.device)

    def penalty(self, state: State) -> Tensor | None:
        """Choose what would go now, and return the sum of :meth:`cost`."""
        for site, keep in zip(state.sites, state.choose(self.scores(state), state.sparsity).values()):
            site.propose(keep)
        state.note("theta", {})
        state.note("tau", {})
        return super().penalty(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return the balanced squares of one layer: 0, but for rounding, with a gradient that is not."""
        owner = site.tensors["owner"]
        factors, theta, tau = self.factors(site, wide(weight.detach()))
        state.notes["theta"][site.name], state.notes["tau"][site.name] = theta, tau
        return (spread(factors, owner, left_over=0.0) * wide(weight).square()).sum()

    def factors(self, site: Site, weight: Tensor) -> tuple[Tensor, float, float]:
        """Return what the squares of each unit are multiplied by, ``(units,)``, and ``theta`` and ``tau``."""
        owner = site.tensors["owner"]
        sizes, energy = gather(weight.abs(), owner), gather(weight.square(), owner)
        stays = gather(site.keep.to(weight.dtype), owner) > 0
        if not sizes.numel():
            return sizes, 0.0, 0.0
        tiny = torch.finfo(weight.dtype).tiny
        theta = (sizes[stays].min() if bool(stays.any()) else sizes.max()).clamp_min(tiny)
        distance = (theta.log() - sizes.clamp_min(tiny).log()).where(~stays, sizes.clamp_min(tiny).log() - theta.log())
        raw = 1.0 + distance.clamp_min(0.0)
        weak, strong = float((raw * energy)[~stays].sum()), float((raw * energy)[stays].sum())
        tau = self.alpha * weak / strong if strong > 0 else 0.0
        return torch.where(stays, -tau * raw, self.alpha * raw), float(theta), tau
