"""N:M masks that hold in the forward and in the backward product, renewed while the model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern, TransposableNM
from sparsekit.training.base import check_every
from sparsekit.training.gates.base import LATENT, GatedMethod
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction

FROZEN = "frozen"
COMING = "coming_step"


@dataclass(frozen=True)
class TransposableTraining(GatedMethod):
    """Runs on a transposable mask of dense weights that all train, renews it every few steps, and freezes it.

    Finding a transposable mask costs more than taking the largest of a group, so it is not done every step. Until the
    mask is frozen, removed weights get the gradient that arrives at their place (straight-through), so that they can
    come back; afterwards they are gone. The paper gives the masks and how often they are renewed; where it is frozen,
    the decay and the dense phases are documented variants, which the defaults leave out but for the freezing.

    Args:
        every: steps between two choices of the mask.
        freeze: share of the run after which the mask stays, in [0, 1]; it is chosen for the last time there.
        dense: steps at the end of each period that run on the dense weights, so that the next mask is chosen from
            weights that have trained together; 0 = none.
        decay: added to the gradient of removed weights, times the weight, as in SR-STE.

    Raises:
        PruningError: an argument is out of its range.

    Source: Hubara, Chmiel, Island, Banner, Naor, Soudry 2021, "Accelerated Sparse Neural Training: A Provable and
    Efficient Method to Find N:M Transposable Masks".
    """

    every: int = 40
    freeze: float = 0.75
    dense: int = 0
    decay: float = 0.0
    default_pattern: ClassVar[Pattern] = TransposableNM(2, 4)

    def __post_init__(self) -> None:
        check_every(every=self.every)
        check_fraction(freeze=self.freeze)
        if not isinstance(self.dense, int) or not 0 <= self.dense < self.every:
            raise PruningError(f"dense: expected a number of steps below every={self.every}, got {self.dense!r}")
        if self.decay < 0:
            raise PruningError(f"decay: expected at least 0, got {self.decay!r}")

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Refuse what is not transposable."""
        if isinstance(pattern, TransposableNM):
            return None
        return f"trains transposable masks: expected a TransposableNM, got {pattern}; SRSTE() trains the others"

    def prepare(self, state: State) -> None:
        """Choose the first mask, from the first weights."""
        state.numbers[FROZEN] = False
        super().prepare(state)

    def anneal(self, state: State, step: int) -> None:
        """Remember which step is to come: what it runs on depends on it."""
        state.numbers[COMING] = step

    def show(self, state: State) -> None:
        """Renew the mask at the begin of a period, and for the last time where it is frozen."""
        coming = state.numbers[COMING]
        freezes = coming >= math.ceil(self.freeze * state.steps - 1e-9)
        if not state.numbers[FROZEN] and (freezes or coming % self.every == 0):
            self.renew(state)
            if freezes:
                self.let_go(state)
        super().show(state)

    def renew(self, state: State) -> None:
        """Choose the mask anew among the dense weights."""
        keeps = state.choose({site.name: site.tensors[LATENT].abs() for site in state.sites}, None)
        changed = {site.name: float((site.keep != keeps[site.name]).float().mean()) for site in state.sites}
        state.note("changed", changed)
        for site in state.sites:
            site.propose(keeps[site.name])

    def let_go(self, state: State) -> None:
        """Hold the mask from now on, and forget the removed weights."""
        state.numbers[FROZEN] = True
        state.hold({site.name: site.keep for site in state.sites})
        for site in state.sites:
            site.tensors[LATENT].masked_fill_(~site.keep, 0.0)

    def runs_dense(self, state: State) -> bool:
        """Whether the step to come, or under way, runs on the dense weights."""
        return not state.numbers[FROZEN] and state.numbers[COMING] % self.every >= self.every - self.dense

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the kept weights, or all of them in a dense phase; the gradient passes to all."""
        return weight if self.runs_dense(state) else weight + (weight * site.keep - weight).detach()

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor | None:
        """Return half the squares of the removed weights, times the decay, where the mask is used."""
        if not self.decay or self.runs_dense(state):
            return None
        return 0.5 * self.decay * (weight * ~site.keep).square().sum()

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the masks as they are: what the model runs on, or ran on before a dense phase."""
        return {site.name: site.keep for site in state.sites}
