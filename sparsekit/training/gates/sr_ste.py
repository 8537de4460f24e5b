"""N:M from scratch, by a straight-through estimate that decays what is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Pattern
from sparsekit.training.gates.base import LATENT, GatedMethod
from sparsekit.training.site import Site
from sparsekit.training.state import State


@dataclass(frozen=True)
class SRSTE(GatedMethod):
    """Runs on the largest weights of each group, and trains all: the others get the gradient too, and decay.

    Args:
        decay: added to the gradient of pruned weights, times the weight; at 0 it is the plain straight-through
            estimate.

    Raises:
        PruningError: ``decay`` is negative.

    Source: Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch", equation 9.
    """

    decay: float = 2e-4
    default_pattern: ClassVar[Pattern] = NM(2, 4)

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise PruningError(f"decay: expected at least 0, got {self.decay!r}")

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the kept weights; the gradient passes to all."""
        return weight + (weight * site.keep - weight).detach()

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return half the squares of the pruned weights, times the decay."""
        return 0.5 * self.decay * (weight * ~site.keep).square().sum()

    def show(self, state: State) -> None:
        """Choose anew, and let the model run on what is kept."""
        self.follow(state)
        super().show(state)

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the largest of the learned weights, at the full sparsity from the first step."""
        return state.choose({site.name: site.tensors[LATENT].abs() for site in state.sites}, state.sparsity)
