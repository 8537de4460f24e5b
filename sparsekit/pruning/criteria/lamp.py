"""Keep what is large among what would be left of its layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class LAMP(Criterion):
    """``w^2 / sum of u^2`` over the weights ``u`` of the same layer with ``|u| >= |w|``; made for ``Global``.

    Inside a layer the order is that of the magnitudes. The largest weight of each layer scores 1, so that under
    ``Global`` and ``Unstructured`` no layer loses everything before each is down to one weight. Of equal magnitudes the
    lower index counts as the larger.

    Source: Lee, Park, Mo, Ahn, Shin 2020, "Layer-adaptive Sparsity for the Magnitude-based Pruning", section 2.
    """

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the share of each weight in what is at least as large; see :meth:`Criterion.score`."""
        squares = weight.double().square().reshape(-1)
        order = squares.argsort(descending=True, stable=True)
        falling = squares[order]
        left = falling.cumsum(dim=0)
        scores = torch.empty_like(squares)
        scores[order] = torch.where(left > 0, falling / left, 0.0)
        return scores.reshape(weight.shape)
