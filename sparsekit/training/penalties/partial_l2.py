"""Weight decay of what would go, with a strength that is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import longest_step, wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive


@dataclass(frozen=True)
class PartialL2(PenaltyMethod):
    """Adds ``e^zeta * R - alpha * zeta``, where ``R`` is the mean square of the weights that would go now.

    ``zeta`` is learned with them, by an Adam of its own: it settles where ``e^zeta = alpha / R``, so that the strength
    grows as ``R`` falls. To the loss of a step it is a constant.

    As a safeguard, which is not the paper's, the strength stays where one plain gradient step at the optimizer's
    learning rate would set the weights to zero: beyond, they would swing.

    Args:
        alpha: what the penalty settles at.
        start: ``zeta`` at the first step.
        learning_rate: of ``zeta``, about what it can change in one step.

    Raises:
        PruningError: ``alpha`` or ``learning_rate`` is not above 0.

    Source: Choi, El-Khamy, Lee 2018, "Compression of Deep Convolutional Neural Networks under Joint Sparsity
    Constraints"; what ``R`` is divided by is a variant: the number of weights that would go.
    """

    alpha: float = 1.0
    start: float = 0.0
    learning_rate: float = 0.1
    default_allocation: ClassVar[Allocation] = Global()

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, learning_rate=self.learning_rate)

    def prepare(self, state: State) -> None:
        """Start at the first strength."""
        zeta = state.tensors["zeta"] = torch.tensor(self.start, dtype=torch.float64)
        state.gate_optimizer = Adam([zeta], lr=self.learning_rate)

    def penalty(self, state: State) -> Tensor | None:
        """Choose what would go now, and return the sum of :meth:`cost`, less ``alpha * zeta``."""
        for site, keep in zip(state.sites, state.choose(self.scores(state), state.sparsity).values()):
            site.propose(keep)
        state.numbers["going"] = sum(int((~site.keep).sum()) for site in state.sites)
        zeta = float(state.tensors["zeta"])
        state.note("factor", math.exp(zeta))
        costs = super().penalty(state)
        return None if costs is None else costs - self.alpha * zeta

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return the layer's part of ``e^zeta * R``."""
        strength = math.exp(float(state.tensors["zeta"])) / max(1, int(state.numbers["going"]))
        return strength * wide(weight * ~site.keep).square().sum()

    def before_step(self, state: State) -> None:
        """Let ``zeta`` take its step, by ``e^zeta * R - alpha``."""
        going = state.numbers.get("going", 0)
        if not going or state.gate_optimizer is None:
            return
        zeta = state.tensors["zeta"]
        squares = sum(float(site.read().double().masked_fill(site.keep, 0.0).square().sum()) for site in state.sites)
        state.note("mean_square", squares / going)
        zeta.grad = torch.full_like(zeta, math.exp(float(zeta)) * squares / going - self.alpha)
        state.gate_optimizer.step()
        zeta.clamp_(max=math.log(going / (2.0 * max(longest_step(state), 1e-12))))
