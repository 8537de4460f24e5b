"""Weight decay that grows without bound, on what would be pruned now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.schedules import Exponential
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive


@dataclass(frozen=True)
class SelectiveWeightDecay(PenaltyMethod):
    """Adds ``decay * a / 2 * |w|^2`` over the weights that would go now; ``a`` grows exponentially to the end.

    So they are next to nothing when they are removed, and may change their minds until then.

    Args:
        criterion: what would go.
        decay: the weight decay that is multiplied.
        start: ``a`` at the first step.
        stop: ``a`` at the last step.

    Raises:
        PruningError: an argument is not above 0.

    Source: Tessier, Gripon, Leonardon, Arzel, Hannagan, Bertrand 2020, "Rethinking Weight Decay for Efficient Neural
    Network Pruning", equations 2 and 3.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    decay: float = 5e-4
    start: float = 0.1
    stop: float = 1e5
    default_allocation: ClassVar[Allocation] = Global()

    def __post_init__(self) -> None:
        check_positive(decay=self.decay, start=self.start, stop=self.stop)

    def factor(self, state: State) -> float:
        """Return ``decay * a`` for the step to come."""
        return self.decay * Exponential(self.start, self.stop, 0, max(1, state.steps - 1)).value(state.step)

    def penalty(self, state: State) -> Tensor | None:
        """Choose what would go now, and return the sum of :meth:`cost`."""
        for site, keep in zip(state.sites, state.choose(self.scores(state), state.sparsity).values()):
            site.propose(keep)
        state.note("factor", self.factor(state))
        return super().penalty(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return half the squares of what would go, times the factor."""
        return 0.5 * self.factor(state) * (weight * ~site.keep).square().sum()

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores of the model as it is."""
        return state.scores(self.criterion)
