"""Keep what is large for its layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class ThresholdMagnitude(Criterion):
    """``|w| / std(w)``, with one threshold called quality for all layers.

    With ``quality``, each layer loses the weights of ``|w| < quality * std(w)``, ``erf(quality / sqrt(2))`` of a normal
    distribution; how sparse it gets follows, so no sparsity is given. A larger unit of a pattern goes where that holds
    for its mean. Without ``quality``, the allocation ``Global`` finds the one that reaches the sparsity asked for. The
    standard deviation is that of the whole layer, zeros included; where it is 0, nothing lies below the threshold.

    Args:
        quality: the threshold in standard deviations; None ranks only.

    Raises:
        PruningError: ``quality`` is negative, or comes together with a sparsity.

    Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections", section 3.
    """

    quality: float | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and not self.quality >= 0:
            raise PruningError(f"ThresholdMagnitude: expected quality >= 0 or None, got {self.quality}")

    @property
    def sets_sparsity(self) -> bool:
        """Whether ``quality`` is given."""
        return self.quality is not None

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return ``|w| / std``, less ``quality``, so that what is below the threshold is negative."""
        wide = weight.double()
        deviation = wide.std(correction=0) if weight.numel() else wide.sum()
        ratio = wide.abs() / deviation if bool(deviation > 0) else torch.full_like(wide, self.quality or 0.0)
        return ratio - (self.quality or 0.0)

    def share(self, name: str, units: Tensor, share: float) -> float:
        """Return the fraction of units below the threshold; see :meth:`Criterion.share`."""
        if self.quality is None:
            return share
        if share > 0:
            raise PruningError(f"{name}: {self} sets the sparsity itself, so expected no other, got {share:g}")
        return int((units < 0).sum()) / max(1, units.numel())
