"""Learn which of the first weights to keep, and never change a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from sparsekit.errors import PruningError
from sparsekit.training.gates.base import GatedMethod, gates_of
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive
from sparsekit.training.units import gather, owners, spread, unit_count

SCORE = "score"
OWNER = "owner"
DRAWN = "drawn"


@dataclass(frozen=True)
class Supermask(GatedMethod):
    """Learns a mask over weights that stay as they are: each step runs on a mask drawn from the learned probabilities.

    A unit of the pattern is kept with probability ``sigmoid(v)``, and the gradient of its score ``v`` is that of the
    probability. In the end the units with the largest ``v`` stay as the sparsity says; without a sparsity, those with
    ``v > 0``. What the optimizer does to the pruned weights is undone. Other parameters, such as biases, train as the
    optimizer has them; the paper's setting leaves them out of it.

    Args:
        learning_rate: of the scores.
        momentum: of the scores, in [0, 1).
        start: first score of all units; 0 keeps half of them at first.
        signed_constant: run on the sign of each weight times the standard deviation of its layer.
        rescale: multiply what is kept of a layer by its number of weights over the number that is kept, which counts as
            a constant for the gradient (a documented variant).

    Raises:
        PruningError: an argument is out of its range.

    Source: Zhou, Lan, Liu, Yosinski 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", section 5.
    """

    learning_rate: float = 100.0
    momentum: float = 0.9
    start: float = 0.0
    signed_constant: bool = False
    rescale: bool = False
    noisy: ClassVar[bool] = True
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        if not 0.0 <= self.momentum < 1.0:
            raise PruningError(f"momentum: expected a number in [0, 1), got {self.momentum!r}")

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return one score per unit."""
        owner = site.tensors[OWNER] = owners(site.pattern, site.shape, weight.device)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return {SCORE: torch.full((unit_count(owner),), self.start, dtype=dtype, device=weight.device)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw a uniform number per unit: what is below the probability is kept."""
        scores = gates_of(site)[SCORE]
        return {DRAWN: state.uniform(tuple(scores.shape), scores)}

    def make_optimizer(self, gates: list[Tensor]) -> Optimizer:
        """Return what learns the scores: SGD."""
        return SGD(gates, lr=self.learning_rate, momentum=self.momentum)

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the fixed weights under the mask that was drawn; without a draw, under the mask that would stay."""
        drawn = site.tensors.get(f"noise.{DRAWN}")
        if drawn is None:
            mask = site.keep.to(gates[SCORE].dtype)
        else:
            chance = gates[SCORE].sigmoid()
            hard = (drawn < chance).to(chance.dtype)
            mask = spread(chance + (hard - chance).detach(), site.tensors[OWNER])
        fixed = self.fixed(weight.detach())
        if self.rescale:
            fixed = fixed * (mask.numel() / mask.detach().sum().clamp(min=1.0))
        return fixed * mask

    def fixed(self, weight: Tensor) -> Tensor:
        """Return the values that are masked."""
        return weight.sign() * weight.std(correction=0) if self.signed_constant else weight

    def before_step(self, state: State) -> None:
        """Give the scores their gradients, and the weights none."""
        super().before_step(state)
        for site in state.sites:
            site.set_gradient(torch.zeros(site.shape, dtype=site.weight.dtype, device=site.keep.device))

    def take(self, state: State) -> None:
        """Ignore what the optimizer, by weight decay or old momentum, has done to the weights."""

    @contextmanager
    def evaluating(self, state: State) -> Iterator[None]:
        """Show the model the weights under the mask that would stay now."""
        self.follow(state)
        with super().evaluating(state):
            yield

    def harden(self, state: State) -> None:
        """Write the weights under the mask that stays, and hold it."""
        self.follow(state)
        super().harden(state)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return ``v``, shared out over the weights of each unit."""
        return {site.name: self._shared(site) for site in state.sites}

    def decide(self, state: State, site: Site) -> Tensor:
        """Return the units that are kept more often than not."""
        return spread(gates_of(site)[SCORE], site.tensors[OWNER]) > 0

    def _shared(self, site: Site) -> Tensor:
        scores, owner = gates_of(site)[SCORE], site.tensors[OWNER]
        sizes = gather(torch.ones(site.shape, dtype=scores.dtype, device=scores.device), owner)
        return spread(scores / sizes, owner)
