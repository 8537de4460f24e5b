"""Grow at random, as evolution does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns.base import removed
from sparsekit.pruning.allocations import Allocation, ErdosRenyi
from sparsekit.training.growth.base import DynamicSparseTraining
from sparsekit.training.growth.moves import dropping, lowest, units_in
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction


@dataclass(frozen=True)
class SET(DynamicSparseTraining):
    """Drops the smallest positive and the largest negative weights of each layer, and grows as many at random.

    Of either sign the share ``zeta`` goes, rounded down, and with them kept weights that are exactly zero. Units of
    more than one weight have no sign: of these the share ``zeta`` of smallest ``|w|`` goes. Grown weights start at
    zero; the paper draws them anew.

    Args:
        every: steps between two changes, an epoch in the paper; None = a 20th of the run, at most 100.
        end: share of the run after which masks stay as they are, in [0, 1].
        zeta: share of the kept weights that goes each time, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta 2018, "Scalable Training of Artificial Neural Networks with
    Adaptive Sparse Connectivity Inspired by Network Science", algorithm 1.
    """

    zeta: float = 0.3
    default_allocation: ClassVar[Allocation] = ErdosRenyi()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(zeta=self.zeta)

    def drop(self, state: State, site: Site) -> Tensor:
        """Return what is closest to zero from either side."""
        weight, active = site.read(), self.active(site)
        high, wide = dropping(site.pattern).grid(site.shape)
        if high * wide < weight.numel():
            return self.smallest(site, removed(self.zeta, units_in(site.pattern, active)))
        gone = active & (weight == 0)
        for sign in (weight > 0, weight < 0):
            count = removed(self.zeta, int((active & sign).sum()))
            gone = gone | lowest(site.pattern, weight.abs(), active & sign, count)
        return gone

    def growth_scores(self, state: State, site: Site) -> Tensor:
        """Return random numbers."""
        return self.random(state, site)
