"""Keep what moves away from zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from sparsekit.errors import PruningError
from sparsekit.training.gates.base import GATE, LATENT
from sparsekit.training.gates.unit_gates import UnitGates, filled, number_units, over_weights
from sparsekit.training.schedules import Cubic
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive

DONE = "done"


@dataclass(frozen=True)
class MovementPruning(UnitGates):
    """Runs on the units with the highest scores, and scores all by whether training moves them away from zero.

    A score ``S`` gets the gradient of a factor on its unit, straight through the choice: ``S`` falls by
    ``learning_rate * sum(dL/dw_effective * w)`` each step, for what runs and for what does not. So units of any pattern
    have one score each, as blocks, rows and columns have in block movement pruning. With a sparsity, the share that is
    removed grows along a cubic. Without one, units stay whose ``sigmoid(S)`` is above a threshold, which grows along
    the same cubic, and a penalty on ``sigmoid(S)`` says how many these are: soft movement pruning.

    Args:
        begin: share of the run when the cubic begins; everything runs before.
        end: share of the run when it ends; what is removed then still depends on the scores.
        threshold: final threshold without a sparsity, in (0, 1).
        strength: final penalty on the mean of ``sigmoid(S)`` of a layer, without a sparsity; it grows as the threshold.
        adaptive: learn scores by Adam, as the authors' experiments; False takes plain SGD, where the order of the
            scores, and with it what a sparsity removes, does not depend on the learning rate.
        learning_rate: of the scores; the paper's is 0.01, for longer runs.

    Raises:
        PruningError: an argument is out of its range.

    Source: Sanh, Wolf, Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", sections 3 and 4; Lagunas,
    Charlaix, Sanh, Rush 2021, "Block Pruning For Faster Transformers", section 3, for units. The default begin and end
    are the 5 400 steps of warm-up, and twice as many of cool-down, of 88 000.
    """

    begin: float = 0.06
    end: float = 0.88
    threshold: float = 0.1
    strength: float = 10.0
    adaptive: bool = True
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        check_fraction(begin=self.begin, end=self.end)
        check_positive(learning_rate=self.learning_rate)
        if self.begin > self.end:
            raise PruningError(f"end: expected a share of the run from begin={self.begin} on, got {self.end}")
        if not 0 < self.threshold < 1 or self.strength < 0:
            raise PruningError(
                f"expected threshold in (0, 1) and strength of at least 0, got {self.threshold!r} and {self.strength!r}"
            )

    @property
    def cut(self) -> float:
        """Return the final threshold, as a score."""
        return math.log(self.threshold / (1 - self.threshold))

    def make_optimizer(self, gates: list[Tensor]) -> Optimizer:
        """Return what learns the scores."""
        return super().make_optimizer(gates) if self.adaptive else SGD(gates, lr=self.learning_rate)

    def anneal(self, state: State, step: int) -> None:
        """Go on along the cubic from 0 to 1."""
        state.numbers[DONE] = Cubic(0.0, 1.0, self.begin * state.steps, self.end * state.steps).value(step)
        state.note(DONE, state.numbers[DONE])

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``S = 0`` for every unit."""
        return {"s": filled(number_units(state, site), 0.0, weight)}

    def show(self, state: State) -> None:
        """Choose what runs now."""
        keeps = self._now(state)
        for site in state.sites:
            site.propose(keeps[site.name])
        super().show(state)

    def follow(self, state: State) -> None:
        """Do nothing: the masks are those that the model runs on."""

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights that run; scores get the gradient of factors."""
        factor = over_weights(site, gates["s"] - gates["s"].detach(), 0.0)
        return weight * (site.keep.to(factor.dtype) + factor)

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor | None:
        """Return the penalty of soft movement pruning."""
        if not self._soft(state):
            return None
        return self.strength * float(state.numbers[DONE]) * torch.sigmoid(gates["s"]).mean()

    def importance(self, site: Site) -> Tensor:
        """Return ``S``."""
        return site.tensors[GATE + "s"]

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the learned weights: what stays runs as it is."""
        return site.tensors[LATENT].clone()

    def _now(self, state: State) -> dict[str, Tensor]:
        """Return what runs at this point of the cubic."""
        done = float(state.numbers[DONE])
        if done <= 0.0:
            return {site.name: torch.ones_like(site.keep) for site in state.sites}
        if self._soft(state):
            level = self.threshold * done
            cut = math.log(level / (1 - level))
            return {site.name: over_weights(site, self.importance(site) > cut) for site in state.sites}
        return state.choose(self.scores(state), done * (state.sparsity or 0.0))

    def _soft(self, state: State) -> bool:
        return state.sparsity is None and not state.pattern.fixes_sparsity
