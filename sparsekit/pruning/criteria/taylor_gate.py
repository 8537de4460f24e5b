"""Keep the filters without which the loss would change, to first order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import GateGradients, GradientSquare, LayerStatistics, Needs


@dataclass(frozen=True)
class TaylorGate(Criterion):
    """``(dL/dz)^2`` of a gate ``z = 1`` on each output of a layer, averaged exponentially over mini-batches.

    The square is of the batch's gradient, not the mean of its samples' squares. The gate multiplies what the layer
    returns, bias included: what a BatchNorm behind it makes of a filter that is gone is seen. The average starts at the
    first batch and keeps ``momentum`` of itself per batch. The weights of a filter share its score by magnitude.

    Args:
        momentum: of the average, in [0, 1).
        by_weight: score each weight by ``(w * dL/dw)^2`` instead, so that a unit of any pattern has the sum of its
            weights'.

    Raises:
        PruningError: the momentum is outside [0, 1).

    Source: Molchanov, Mallya, Tyree, Frosio, Kautz 2019, "Importance Estimation for Neural Network Pruning", section 3.
    """

    momentum: float = 0.9
    by_weight: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise PruningError(f"TaylorGate: expected a momentum in [0, 1), got {self.momentum}")

    def statistics(self) -> Needs:
        """Return the gradients of gates, or of weights."""
        return (GradientSquare.using(momentum=self.momentum) if self.by_weight else GateGradients,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the smoothed squares, those of filters shared out over their weights; see :meth:`Criterion.score`."""
        if self.by_weight:
            smoothed = stats[GradientSquare.using(momentum=self.momentum)].smoothed
            return weight.square() * smoothed.to(weight.dtype)
        return share_by_magnitude(self.filters(stats[GateGradients]), weight)

    def filters(self, gates: GateGradients) -> Tensor:
        """Return the score of each filter, ``(out,)``, float64."""
        squares = gates.by_batch().double().square()
        smoothed = squares[0]
        for square in squares[1:]:
            smoothed = self.momentum * smoothed + (1 - self.momentum) * square
        return smoothed
