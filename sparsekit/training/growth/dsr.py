"""One threshold for all layers, and growth where weights survive it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.growth.base import Counts, DynamicSparseTraining
from sparsekit.training.growth.moves import dropping, in_proportion, units_in
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

FEW, MANY = 0.9, 1.1
"""Of the units that are to be dropped: below the one the threshold doubles, above the other it halves."""


@dataclass(frozen=True)
class DSR(DynamicSparseTraining):
    """Drops all weights below one threshold, and grows as many at random where layers have most that survived.

    The threshold is the same for all layers, and follows the count that is to be dropped: after a change that dropped
    less than 0.9 of it, it doubles; after one that dropped more than 1.1, it halves. The sum over layers is constant;
    a layer grows in proportion to its survivors, and what it has no room for goes to the others. A unit of several
    weights is compared by its mean ``|w|``. The largest unit of a layer is never dropped. Where the pattern fixes its
    own sparsity, nothing moves between layers.

    Args:
        every: steps between two changes; None = a 20th of the run, at most 100.
        end: share of the run after which masks stay as they are, in [0, 1].
        threshold: the first one, above 0.
        count: units to drop at each change, 600 in the paper's smallest network; None = a tenth of all that are kept.

    Raises:
        PruningError: an argument is out of its range.

    Source: Mostafa, Wang 2019, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
    Reparameterization", algorithm 1. There a random layer gets what rounding leaves; here the largest fractions do.
    """

    threshold: float = 1e-3
    count: int | None = None
    redistributes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(threshold=self.threshold)
        if self.count is not None and not (isinstance(self.count, int) and self.count >= 1):
            raise PruningError(f"count: expected a whole number of units, at least 1, got {self.count!r}")

    def prepare(self, state: State) -> None:
        """Hold random masks, and set the threshold."""
        super().prepare(state)
        state.numbers["threshold"] = self.threshold

    def wanted(self, state: State) -> float:
        """Return how many units a change should drop."""
        return self.count or 0.1 * sum(units_in(site.pattern, self.active(site)) for site in state.sites)

    def drop(self, state: State, site: Site) -> Tensor:
        """Return what lies below the threshold, but for the largest unit."""
        units, active = dropping(site.pattern), self.active(site)
        sizes = units.pool(site.read().double().abs()) / units.pool(torch.ones_like(active, dtype=torch.float64))
        kept = units.pool(active.double()) > 0
        small = int((kept & (sizes < state.numbers["threshold"])).sum())
        return self.smallest(site, max(0, min(small, int(kept.sum()) - 1)))

    def shares(self, state: State, dropped: Counts, survivors: Mapping[str, Tensor]) -> Counts:
        """Return shares in proportion to the survivors, and move the threshold for the next time."""
        total, wanted = sum(dropped.values()), self.wanted(state)
        state.note("threshold", state.numbers["threshold"])
        if total < FEW * wanted:
            state.numbers["threshold"] *= 2
        elif total > MANY * wanted:
            state.numbers["threshold"] /= 2
        rooms = {s.name: units_in(s.pattern, ~survivors[s.name]) for s in state.sites}
        staying = {s.name: float(units_in(s.pattern, survivors[s.name])) for s in state.sites}
        return in_proportion(staying, rooms, total)

    def growth_scores(self, state: State, site: Site) -> Tensor:
        """Return random numbers."""
        return self.random(state, site)
