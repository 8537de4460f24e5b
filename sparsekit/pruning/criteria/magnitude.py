"""Keep what is large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class Magnitude(Criterion):
    """``|w|``.

    Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections", section 3.
    """

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return ``|w|``; see :meth:`Criterion.score`."""
        return weight.abs()
