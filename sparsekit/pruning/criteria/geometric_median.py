"""Keep the filters that the others cannot replace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsekit.errors import PruningError
from sparsekit.patterns.base import as_matrix
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import LayerStatistics

DISTANCES = ("l2", "l1", "cosine")
ROOM = 1 << 24
"""Distances that are held at a time."""


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """``sum_j ||filter_i - filter_j||`` over all filters of the layer, shared out over its weights.

    The filters nearest to the geometric median of their layer go: what they contribute, the others can represent. Made
    for patterns whose units are whole filters; the weights of a filter share its score by magnitude, and one of zeros
    scores 0.

    Args:
        distance: "l2", "l1", or "cosine" (1 - cosine similarity; 0 from and to a filter of zeros).

    Raises:
        PruningError: the distance is another word.

    Source: He, Liu, Wang, Hu, Yang 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration".
    """

    distance: str = "l2"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise PruningError(f"GeometricMedian: expected distance {' or '.join(DISTANCES)}, got {self.distance!r}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each weight's share in the summed distance of its filter; see :meth:`Criterion.score`."""
        filters = as_matrix(weight).double()
        parts = torch.split(filters, max(1, ROOM // max(1, len(filters))))
        return share_by_magnitude(torch.cat([self._distances(part, filters).sum(dim=1) for part in parts]), weight)

    def _distances(self, some: Tensor, filters: Tensor) -> Tensor:
        """From each of ``some`` ``(rows, n)`` to each of ``filters`` ``(out, n)``: ``(rows, out)``."""
        if self.distance == "cosine":
            alive = some.any(dim=1)[:, None] & filters.any(dim=1)
            return (1 - F.normalize(some, dim=1) @ F.normalize(filters, dim=1).T) * alive
        exact = "donot_use_mm_for_euclid_dist"  # the fast way cancels for filters that are nearly the same
        return torch.cdist(some, filters, p=2.0 if self.distance == "l2" else 1.0, compute_mode=exact)
