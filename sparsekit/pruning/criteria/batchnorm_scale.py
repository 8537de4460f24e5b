"""Keep the filters whose outputs are scaled up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.filter_norm import spread_filters
from sparsekit.pruning.statistics import LayerStatistics, Needs, NormScale


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """``|gamma|`` of the BatchNorm that follows a layer in the computation, spread over the weights of the filter.

    Means something after training with an L1 penalty on the scales. Made for patterns whose units are whole filters and
    for ``Global``; with finer patterns the weights of a filter tie. The batches only show which BatchNorm follows which
    layer; where none does, that is an error. The BatchNorm still adds its shift to a removed filter.

    Source: Liu, Li, Shen, Huang, Yan, Zhang 2017, "Learning Efficient Convolutional Networks through Network Slimming",
    section 3.
    """

    needs: ClassVar[Needs] = (NormScale,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the filter's scale over its size, at each of its weights; see :meth:`Criterion.score`."""
        return spread_filters(stats[NormScale].scale.to(weight.dtype), weight)
