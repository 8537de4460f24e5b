"""Keep what the loss would miss, to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import Gradient, LayerStatistics, Needs


@dataclass(frozen=True)
class MagnitudeGradient(Criterion):
    """``|w * dL/dw|``, the gradient averaged over the batches.

    Source: Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?", section 7.2.
    """

    needs: ClassVar[Needs] = (Gradient,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return ``|w * gradient|``; see :meth:`Criterion.score`."""
        return (weight * stats[Gradient].mean.to(weight.dtype)).abs()
