"""Grow where the gradient is largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns.base import removed
from sparsekit.pruning.allocations import ERK, Allocation
from sparsekit.training.growth.base import DynamicSparseTraining
from sparsekit.training.growth.moves import units_in
from sparsekit.training.schedules import Cosine
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction


@dataclass(frozen=True)
class RigL(DynamicSparseTraining):
    """Drops the smallest magnitudes and grows the largest ``|gradient|`` of all that is then not kept, layer by layer.

    A layer drops ``floor(a * kept)`` units, where ``a`` falls from ``alpha`` to 0 along a cosine until ``end``. What
    has just been dropped may be grown again, and then keeps its weight.

    Args:
        every: steps between two changes; None = a 20th of the run, at most the paper's 100.
        end: share of the run after which masks stay as they are, in [0, 1].
        alpha: drop fraction at the start, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery: Making All Tickets Winners", algorithm 1.
    """

    end: float = 0.75
    alpha: float = 0.3
    default_allocation: ClassVar[Allocation] = ERK()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(alpha=self.alpha)

    def fraction(self, state: State) -> float:
        """Return the drop fraction of the step to come."""
        return Cosine(self.alpha, 0.0, 0, self.end * state.steps).value(state.step)

    def rewire(self, state: State) -> None:
        """Drop, and grow as much."""
        state.note("drop_fraction", self.fraction(state))
        super().rewire(state)

    def drop(self, state: State, site: Site) -> Tensor:
        """Return the smallest."""
        return self.smallest(site, removed(self.fraction(state), units_in(site.pattern, self.active(site))))

    def growth_scores(self, state: State, site: Site) -> Tensor:
        """Return the magnitude of the dense gradient."""
        return site.gradient().abs()
