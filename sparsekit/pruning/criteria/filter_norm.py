"""Keep the filters that are large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import as_matrix
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics


def spread_filters(filters: Tensor, weight: Tensor) -> Tensor:
    """Share out the score of each filter ``(out,)`` evenly over its weights, so that their sum is that score again.

    A pattern whose units are whole filters then ranks the filters. With a finer pattern the weights of a filter tie,
    and of the last filter that goes it is the higher indices.
    """
    size = max(1, weight[:1].numel())
    return (filters / size).reshape(-1, *(1,) * (weight.dim() - 1)).expand(weight.shape)


@dataclass(frozen=True)
class FilterNorm(Criterion):
    """``||filter||_p`` of each output, spread over the weights of the filter.

    Made for patterns whose units are whole filters; with finer ones the weights of a filter tie.

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
        """Return the filter's norm over its size, at each of its weights; see :meth:`Criterion.score`."""
        norms = as_matrix(weight).double().norm(p=self.p, dim=1)
        return spread_filters(norms / max(1, weight[:1].numel()) if self.mean else norms, weight)
