"""Structured sparsity learning: whole units shrink to zero together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Filter, Pattern
from sparsekit.training.penalties.base import PenaltyMethod, learning_rate
from sparsekit.training.penalties.norms import root, small, squares, unit_size
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive
from sparsekit.training.units import owners, spread

OWNER = "owner"


@dataclass(frozen=True)
class GroupLasso(PenaltyMethod):
    """Adds ``strength`` times the sum of the Euclidean norms of all units to the loss.

    The gradient of a unit is ``strength * w / ||w||``, and 0 where the unit is zero. Where units are single weights,
    this is the lasso.

    Gradient steps bring a unit near zero and never to it. With ``proximal``, no term is added to the loss; instead each
    step of the optimizer is followed by one that subtracts ``learning rate * strength`` from each norm, and makes a
    unit exactly zero if and only if its norm is at most that. The learning rate is the one that the optimizer has for
    the weight at that step; neither momentum nor an adaptive optimizer's scale adds to it, so ``strength`` has to be
    larger than in the loss, ``1 / (1 - momentum)`` times with momentum.

    Without a sparsity, units go whose norm is at most ``threshold`` times the largest of the layer, but never the whole
    layer. In a run without ``proximal`` units end up dancing around zero at about ``learning rate * strength``, more
    with momentum.

    Args:
        strength: what the norms are multiplied by. What is right depends on the loss: the larger, the sparser.
        sized: multiply also by the square root of a unit's size, so that large units do not get off lightly.
        proximal: shrink after the optimizer's step instead of adding to the loss.
        threshold: of the largest norm of the layer, in [0, 1]; read only where no sparsity is given.

    Raises:
        PruningError: an argument is out of its range, or ``proximal`` meets an optimizer without a learning rate.

    Source: Wen, Wu, Wang, Chen, Li 2016, "Learning Structured Sparsity in Deep Neural Networks", section 3.1; Yuan, Lin
    2006, "Model Selection and Estimation in Regression with Grouped Variables", for the size; Parikh, Boyd 2014,
    "Proximal Algorithms", block soft thresholding, for the step.
    """

    strength: float = 1e-2
    sized: bool = False
    proximal: bool = False
    threshold: float = 0.05
    default_pattern: ClassVar[Pattern] = Filter()
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(strength=self.strength)
        check_fraction(threshold=self.threshold)

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        """Whether there is a term in the loss: without ``proximal``."""
        return not self.proximal

    def check(self, state: State) -> None:
        """Raise where a proximal step has no learning rate to go by."""
        if self.proximal and any(learning_rate(state, site) is None for site in state.sites):
            raise PruningError(f"proximal: expected an optimizer with a learning rate, got {state.optimizer!r}")

    def prepare(self, state: State) -> None:
        """Remember which unit each weight belongs to, where that is needed at every step."""
        if self.proximal:
            for site in state.sites:
                site.tensors[OWNER] = owners(site.pattern, site.shape, site.keep.device)

    def weight_of(self, site: Site) -> float:
        """Return what the norms of ``site`` are multiplied by."""
        return self.strength * (math.sqrt(unit_size(site.pattern, site.shape)) if self.sized else 1.0)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor | None:
        """Return the sum of the units' norms, times the strength; None where the step does it."""
        return None if self.proximal else self.weight_of(site) * root(squares(site.pattern, weight)).sum()

    def after_step(self, state: State) -> None:
        """Subtract from each unit's norm, where that is the way; down to zero."""
        if self.proximal:
            for site in state.sites:
                rate = learning_rate(state, site)
                assert rate is not None  # check has looked
                site.write(self.shrunk(site, rate * self.weight_of(site)))

    def shrunk(self, site: Site, amount: float) -> Tensor:
        """Return the weight with ``amount`` less of norm in each unit; zero where there is no more than that."""
        weight = wide(site.read())
        norms = root(squares(site.pattern, weight)).to(weight.dtype)
        gone = norms <= amount
        factors = torch.where(gone, 0.0, 1.0 - amount / torch.where(gone, 1.0, norms))
        return weight * spread(factors, site.tensors[OWNER])

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return squares: a unit's score is its squared norm."""
        return {site.name: wide(site.read()).double().square() for site in state.sites}

    def decide(self, state: State, site: Site) -> Tensor:
        """Keep the units that are above the threshold, and at least one."""
        scores = wide(site.read()).double().square()
        norms = root(squares(site.pattern, site.read().double()))
        limit = self.threshold * float(norms.max()) if norms.numel() else 0.0
        return site.pattern.choose(scores, small(norms, limit))
