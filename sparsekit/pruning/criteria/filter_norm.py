"""Keep the filters that are large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import as_matrix
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class FilterNorm(Criterion):
    """``||filter||_p`` of each output, shared out over the weights of the filter by magnitude.

    Made for patterns whose units are whole filters. With finer ones and ``p = 1`` it is ``Magnitude``.

    Args:
        p: 1 is the criterion of Li, 2 that of soft filter pruning.
        mean: divide by the number of weights, so that filters of different layers compare under ``Global``.

    Raises:
        PruningError: ``p`` is not positive.

    Source: Li, Kadav, Durdanovic, Samet, Graf 2016, "Pruning Filters for Efficient ConvNets", section 3.1 (p = 1); He,
    Kang, Dong, Fu, Yang 2018, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks" (p = 2).
    """

    p: float = 1
    mean: bool = False

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise PruningError(f"FilterNorm: expected p > 0, got {self.p}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each weight's share in the norm of its filter; see :meth:`Criterion.score`."""
        norms = as_matrix(weight).double().norm(p=self.p, dim=1)
        return share_by_magnitude(norms / max(1, weight[:1].numel()) if self.mean else norms, weight)
