"""Keep the units that lower the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import GateGradients, LayerStatistics, Needs


@dataclass(frozen=True)
class Skeletonization(Criterion):
    """The relevance ``-dE/dalpha`` of each unit, ``alpha = 1`` being how much attention its output gets.

    A unit that raises the error has a negative relevance and goes first. The error is the user's loss; the paper takes
    the sum of absolute differences, because the gradient of a squared error vanishes as the error does. The relevance
    is smoothed over mini-batches, starting at the first: ``0.8 * old + 0.2 * new``. ``alpha`` multiplies what the layer
    returns, bias included; behind a ReLU it is the same. Made for patterns whose units are whole filters; the weights
    of a filter share its relevance by magnitude.

    Args:
        smoothing: how much of the old relevance stays, in [0, 1).

    Raises:
        PruningError: the smoothing is outside [0, 1).

    Source: Mozer, Smolensky 1989, "Skeletonization: A Technique for Trimming the Fat from a Network via Relevance
    Assessment".
    """

    smoothing: float = 0.8
    needs: ClassVar[Needs] = (GateGradients,)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise PruningError(f"Skeletonization: expected a smoothing in [0, 1), got {self.smoothing}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each unit's relevance, shared out over its weights; see :meth:`Criterion.score`."""
        return share_by_magnitude(self.units(stats[GateGradients]), weight)

    def units(self, gates: GateGradients) -> Tensor:
        """Return the relevance of each unit, ``(out,)``, float64."""
        slopes = gates.by_batch().double()
        relevance = -slopes[0]
        for slope in slopes[1:]:
            relevance = self.smoothing * relevance - (1 - self.smoothing) * slope
        return relevance
