"""Keep the filters whose outputs are scaled up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import LayerStatistics, Needs, NormScale


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """``|gamma|`` of the BatchNorm that follows a layer in the computation, shared out over the filter.

    Means something after training with an L1 penalty on the scales. Made for patterns whose units are whole filters and
    for ``Global``; the weights of a filter share its score by magnitude. The batches only show which BatchNorm follows
    which layer; where none does, that is an error. The BatchNorm still adds its shift to a removed filter.

    Source: Liu, Li, Shen, Huang, Yan, Zhang 2017, "Learning Efficient Convolutional Networks through Network Slimming",
    section 3.
    """

    needs: ClassVar[Needs] = (NormScale,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each weight's share in the scale of its filter; see :meth:`Criterion.score`."""
        return share_by_magnitude(stats[NormScale].scale.to(weight.dtype), weight)
