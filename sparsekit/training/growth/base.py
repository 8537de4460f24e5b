"""What dynamic sparse training is: weights are dropped and others grown, and their number never changes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.training.base import TrainingMethod, check_every
from sparsekit.training.growth.moves import joined_by, lowest, movable, units_in
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction

Counts = dict[str, int]


@dataclass(frozen=True)
class DynamicSparseTraining(TrainingMethod):
    """Starts from random masks, and every few steps drops some of the kept units and grows as many others.

    Units are those of the pattern, scored by the sum over their weights. Where the pattern fixes its own sparsity,
    single weights are dropped, and each group is filled up again from its own, so that masks stay legal.

    Masks change when the gradient of a step is there and before the optimizer takes it: magnitudes and gradients
    belong together. (The papers' codes leave out that optimizer step; here it trains what is kept then.) A grown weight
    starts at zero, with nothing in the optimizer; one that is dropped and grown at once has not changed at all.

    Args:
        every: steps between two changes; None = a 20th of the run, at most 100.
        end: share of the run after which masks stay as they are, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.
    """

    every: int | None = None
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.every is not None:
            check_every(every=self.every)
        check_fraction(end=self.end)

    @abstractmethod
    def drop(self, state: State, site: Site) -> Tensor:
        """Return which kept weights of ``site`` go: bool, whole units, among :meth:`active`."""

    @abstractmethod
    def growth_scores(self, state: State, site: Site) -> Tensor:
        """Return what is grown by, highest first: at least 0, of the weight's shape."""

    def observe(self, state: State) -> None:
        """Look at the dense gradients of every step."""

    def shares(self, state: State, dropped: Counts, survivors: Mapping[str, Tensor]) -> Counts:
        """Return how many units each layer grows, by name: as many as it has dropped.

        Args:
            state: the run.
            dropped: units that go, by name.
            survivors: what stays, by name.
        """
        return dropped

    def prepare(self, state: State) -> None:
        """Hold random masks."""
        state.hold(state.choose({site.name: self.random(state, site) for site in state.sites}, state.sparsity))

    def before_step(self, state: State) -> None:
        """Change the masks where it is time to; gradients of removed weights are still there."""
        self.observe(state)
        every = self.every or max(1, min(100, state.steps // 20))
        if 0 < state.step < self.end * state.steps and state.step % every == 0:
            self.rewire(state)

    def rewire(self, state: State) -> None:
        """Drop, and grow as much."""
        survivors = {site.name: site.keep & ~self.drop(state, site) for site in state.sites}
        dropped = {site.name: units_in(site.pattern, site.keep & ~survivors[site.name]) for site in state.sites}
        grown = self.shares(state, dropped, survivors)
        state.note("dropped", {name: float(count) for name, count in dropped.items()})
        for site in state.sites:
            scores, stays = self.growth_scores(state, site), survivors[site.name]
            site.hold(joined_by(site.pattern, scores, stays, grown[site.name]), state.optimizer)

    def active(self, site: Site) -> Tensor:
        """Return the kept weights that can be dropped: all but those that the pattern cannot cover."""
        return movable(site.pattern, site.keep)

    def smallest(self, site: Site, count: int) -> Tensor:
        """Return the ``count`` kept units of smallest magnitude."""
        return lowest(site.pattern, site.read().abs(), self.active(site), count)

    def random(self, state: State, site: Site) -> Tensor:
        """Return a random number in (0, 1) per weight."""
        return state.uniform(site.shape, torch.empty(0, dtype=torch.float64, device=site.keep.device))

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the masks as they are."""
        return {site.name: site.keep for site in state.sites}
