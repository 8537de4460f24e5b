"""Learn the weights near sparse ones, and find the sparse ones nearest to the weights, in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.base import check_every
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.penalties.projections import hard_threshold, onto_l1_ball, soft_threshold
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

Projection = Literal["l0", "l0 penalty", "l1 penalty", "l1 ball"]
PROJECTIONS: dict[str, Callable[[LearningCompression, State, Site, Tensor], Tensor]] = {
    "l0 penalty": lambda method, state, site, near: hard_threshold(near, math.sqrt(2 * method.price / mu_of(state))),
    "l1 penalty": lambda method, state, site, near: soft_threshold(near, method.price / mu_of(state)),
    "l1 ball": lambda method, state, site, near: onto_l1_ball(near, float(site.tensors["radius"])),
}
ALPHAS = {"l0 penalty": 3e-5, "l1 penalty": 1e-3}
ROUNDS = 10


@dataclass(frozen=True)
class LearningCompression(PenaltyMethod):
    """Pulls the weights ``w`` to sparse ones ``theta`` by an augmented Lagrangian, and ``theta`` to the weights.

    The loss gets ``mu / 2 * |w - theta - multiplier / mu|^2``. Every few steps ``theta`` becomes the projection of
    ``w - multiplier / mu``, ``multiplier`` falls by ``mu * (w - theta)``, and ``mu`` grows by a factor, so that in the
    end the weights are where ``theta`` is. ``theta`` is what stays, its zeros and its values.

    Args:
        projection: ``"l0"``, the nearest weights at the sparsity and pattern of the run; ``"l0 penalty"`` and
            ``"l1 penalty"``, what minimises ``alpha`` times the count or the sum of ``|theta|`` plus
            ``mu / 2 * |w - multiplier / mu - theta|^2``; or ``"l1 ball"``, the nearest whose sum of ``|theta|`` is
            within the radius. All but the first find a sparsity themselves where none is given, and are for
            ``Unstructured()``. By default the first looks for the nearest in all layers together, of which each keeps
            a hundredth.
        mu: at the start.
        growth: factor of ``mu`` at each projection.
        every: steps between two projections; None = a tenth of the run. The paper makes forty projections, 20 epochs
            apart, from ``mu=9e-5`` on with ``growth=1.1``; short runs need fewer, for the multipliers overshoot where
            the weights have not yet come near ``theta``.
        alpha: weight of the penalties. A ``theta`` has no value below ``sqrt(2 * alpha / mu)`` with the first, and is
            ``alpha / mu`` less than the weights with the second. None = 3e-5 and 1e-3.
        radius: of the ball, as a share of the sum of ``|w|`` of the layer at the start.

    Raises:
        PruningError: an argument is out of its range.

    Source: Carreira-Perpinan, Idelbayev 2018, "Learning-Compression Algorithms for Neural Net Pruning", sections 3
    and 4.
    """

    projection: Projection = "l0"
    mu: float = 0.01
    growth: float = 1.6
    every: int | None = None
    alpha: float | None = None
    radius: float = 0.5
    default_allocation: ClassVar[Allocation] = Global(minimum=0.01)

    def __post_init__(self) -> None:
        check_positive(mu=self.mu, alpha=self.price, radius=self.radius)
        if self.projection not in ("l0", *PROJECTIONS):
            names = ", ".join(map(repr, ("l0", *PROJECTIONS)))
            raise PruningError(f"projection: expected one of {names}, got {self.projection!r}")
        if not self.growth >= 1:
            raise PruningError(f"growth: expected a factor of at least 1, got {self.growth!r}")
        if self.every is not None:
            check_every(every=self.every)
        object.__setattr__(self, "learns_sparsity", self.projection != "l0")

    @property
    def price(self) -> float:
        """``alpha``, as given or of the projection."""
        return ALPHAS.get(self.projection, 1.0) if self.alpha is None else self.alpha

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Refuse to project on other patterns than one weight at a time, where the projection knows no other."""
        if self.projection == "l0" or pattern == Unstructured():
            return None
        return f"projects weights one by one, so it needs Unstructured(), not {pattern}"

    def prepare(self, state: State) -> None:
        """Project the weights as they are: without multipliers, the paper's direct compression."""
        state.numbers["mu"] = self.mu
        for site in state.sites:
            weight = wide(site.read())
            site.tensors["multiplier"] = torch.zeros_like(weight)
            site.tensors["radius"] = self.radius * weight.double().abs().sum()
        self.project(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return half the squared distance to ``theta + multiplier / mu``, times ``mu``."""
        mu = mu_of(state)
        aim = site.tensors["theta"] + site.tensors["multiplier"] / mu
        return 0.5 * mu * (wide(weight) - aim).square().sum()

    def after_step(self, state: State) -> None:
        """Project, move the multipliers and raise ``mu``, where it is time to."""
        if (state.step + 1) % (self.every or max(1, state.steps // ROUNDS)):
            return
        self.project(state)
        gaps = {}
        for site in state.sites:
            gap = wide(site.read()) - site.tensors["theta"]
            gaps[site.name] = float(gap.norm())
            site.tensors["multiplier"].sub_(mu_of(state) * gap)
        state.note("mu", mu_of(state))
        state.note("gap", gaps)
        state.numbers["mu"] = mu_of(state) * self.growth

    def nearest(self, state: State, site: Site) -> Tensor:
        """Return ``w - multiplier / mu``, what is projected."""
        return wide(site.read()) - site.tensors["multiplier"] / mu_of(state)

    def project(self, state: State) -> None:
        """Set ``theta`` of each site."""
        if self.projection == "l0":
            for site, keep in zip(state.sites, self.final(state).values()):
                site.tensors["theta"] = self.nearest(state, site).masked_fill(~keep, 0.0)
            return
        for site in state.sites:
            site.tensors["theta"] = PROJECTIONS[self.projection](self, state, site, self.nearest(state, site))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the magnitudes of what is projected, squared for units, whose distances are sums of squares."""
        return {site.name: self.nearest(state, site).double().square() for site in state.sites}

    def decide(self, state: State, site: Site) -> Tensor:
        """Return where the projection is not zero."""
        return PROJECTIONS[self.projection](self, state, site, self.nearest(state, site)) != 0

    def follow(self, state: State) -> None:
        """Let the masks say what would go now."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)

    def harden(self, state: State) -> None:
        """Project once more; the weights become ``theta``, where it is not zero."""
        keeps = self.final(state)
        self.project(state)
        for site in state.sites:
            site.write(site.tensors["theta"])
        state.hold(keeps)


def mu_of(state: State) -> float:
    """Return ``mu`` of the step to come."""
    return float(state.numbers["mu"])
