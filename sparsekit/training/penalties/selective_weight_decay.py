"""Weight decay that grows without bound, on what would be pruned now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.base import check_ranking
from sparsekit.training.penalties.base import PenaltyMethod, learning_rate
from sparsekit.training.schedules import Exponential
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive


@dataclass(frozen=True)
class SelectiveWeightDecay(PenaltyMethod):
    """Adds ``decay * a / 2 * |w|^2`` over the weights that would go now; ``a`` grows exponentially to the end.

    So they are next to nothing when they are removed, and may change their minds until then.

    The numbers are the paper's, and ask for a learning rate that has come down when ``a`` is at its largest. At 0.1 the
    last steps would throw weights beyond zero, further each time: the decay is therefore limited to the inverse of the
    learning rate of the step, which brings a weight to zero at once. Unless an allocation is given, all layers are
    ranked together, and each keeps one unit at least.

    Args:
        criterion: what would go.
        decay: the weight decay that is multiplied.
        start: ``a`` at the first step.
        stop: ``a`` at the last step.

    Raises:
        PruningError: an argument is not above 0, or the criterion does not rank, or within rows only where the
            allocation compares layers.

    Source: Tessier, Gripon, Leonardon, Arzel, Hannagan, Bertrand 2020, "Rethinking Weight Decay for Efficient Neural
    Network Pruning", equations 2 and 3.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    decay: float = 5e-4
    start: float = 0.1
    stop: float = 1e5
    default_allocation: ClassVar[Allocation] = Global(minimum=1e-6)

    def __post_init__(self) -> None:
        check_positive(decay=self.decay, start=self.start, stop=self.stop)

    def check(self, state: State) -> None:
        """Refuse a criterion that does not rank, or not over layers."""
        check_ranking(state, self.criterion)

    def factor(self, state: State) -> float:
        """Return ``decay * a`` for the step to come, as scheduled."""
        return self.decay * Exponential(self.start, self.stop, 0, max(1, state.steps - 1)).value(state.step)

    def penalty(self, state: State) -> Tensor | None:
        """Choose what would go now, and return the sum of :meth:`cost`."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)
        state.note("factor", self.factor(state))
        return super().penalty(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return half the squares of what would go, times the factor, or what brings it to zero where that is less."""
        rate = learning_rate(state, site)
        factor = min(self.factor(state), 1.0 / rate) if rate else self.factor(state)
        return 0.5 * factor * (weight * ~site.keep).square().sum()

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what the criterion keeps of the model as it is."""
        return state.choose(self.scores(state), state.sparsity, self.criterion.by_row)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores of the model as it is."""
        return state.scores(self.criterion)
