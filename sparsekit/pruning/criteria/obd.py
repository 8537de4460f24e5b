"""Keep the weights without which the loss would rise, to second order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import HessianDiagonal, LayerStatistics, Needs


@dataclass(frozen=True)
class OBD(Criterion):
    """Optimal Brain Damage: ``1/2 |h| w^2``, with ``h`` the diagonal of the Hessian.

    It takes the model to be trained (no gradient), the Hessian to be diagonal and the loss to be quadratic. ``h`` is
    estimated from Hessian-vector products, see :class:`~sparsekit.pruning.statistics.HessianDiagonal`: exact for a
    diagonal Hessian, and otherwise with an error that falls with the square root of batches times ``probes``. Where
    ``h`` is negative the model is not at a minimum, or the estimate is off; its size counts then, as a steep way down
    is no flat place either.

    Args:
        probes: random vectors per batch.
        seed: of the vectors.

    Raises:
        PruningError: ``probes`` is smaller than 1.

    Source: LeCun, Denker, Solla 1990, "Optimal Brain Damage"; the estimate of ``h`` is Bekas, Kokiopoulou,
    Saad's.
    """

    probes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise PruningError(f"OBD: expected probes >= 1, got {self.probes}")

    def statistics(self) -> Needs:
        """Return the Hessian's diagonal, by as many probes as asked for."""
        return (self._diagonal,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return ``1/2 |h| w^2``; see :meth:`Criterion.score`."""
        return 0.5 * stats[self._diagonal].diagonal.to(weight.dtype).abs() * weight.square()

    @property
    def _diagonal(self) -> type[HessianDiagonal]:
        return HessianDiagonal.using(probes=self.probes, seed=self.seed)
