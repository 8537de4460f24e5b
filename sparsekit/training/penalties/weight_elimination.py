"""A price per weight, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive
from sparsekit.training.units import gather, owners, spread


@dataclass(frozen=True)
class WeightElimination(PenaltyMethod):
    """Adds ``strength * sum u^2 / (1 + u^2)`` with ``u = w / w0``: small weights decay, large ones pay a fixed price.

    The pull is strongest at ``w0 / sqrt(3)``. Without a sparsity, what has become small goes: units whose root mean
    square is below ``threshold * w0``.

    The paper adapts ``strength`` to how the error falls; here it stays, a variant.

    Args:
        strength: price of a weight.
        w0: scale between small and large, in units of the weights; None = the root mean square of each layer's weights
            at the start.
        threshold: what is small, as a share of ``w0``, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Weigend, Rumelhart, Huberman 1991, "Generalization by Weight-Elimination with Application to Forecasting",
    equation 1.
    """

    strength: float = 2e-4
    w0: float | None = None
    threshold: float = 0.1
    default_allocation: ClassVar[Allocation] = Global()
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, w0=1.0 if self.w0 is None else self.w0)
        check_fraction(threshold=self.threshold)

    def prepare(self, state: State) -> None:
        """Measure the scale of each layer."""
        for site in state.sites:
            size = wide(site.read()).square().mean().sqrt() if site.keep.numel() else torch.zeros(())
            scale = torch.ones_like(size) if self.w0 is None else torch.full_like(size, self.w0)
            site.tensors["w0"] = torch.where(size > 0, size, scale) if self.w0 is None else scale

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return the price of one layer: at most ``strength`` for each weight."""
        squares = (wide(weight) / site.tensors["w0"]).square()
        return self.strength * (squares / (1.0 + squares)).sum()

    def after_step(self, state: State) -> None:
        """Note how many weights are small, per layer."""
        state.note("small", {site.name: 1.0 - float(self.decide(state, site).double().mean()) for site in state.sites})

    def decide(self, state: State, site: Site) -> Tensor:
        """Return the units whose root mean square is not below the threshold."""
        owner = owners(state.pattern, site.shape, site.keep.device)
        squares = (wide(site.read()) / site.tensors["w0"]).square()
        counts = gather(torch.ones_like(squares), owner)
        large = gather(squares, owner) >= counts * self.threshold**2
        return spread(large.to(squares.dtype), owner) > 0

    def follow(self, state: State) -> None:
        """Let the masks say what would go now."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)
