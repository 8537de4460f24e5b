"""Keep the weights that carry the gradient, before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import HessianGradient, LayerStatistics, Needs


@dataclass(frozen=True)
class GraSP(Criterion):
    """Gradient signal preservation: ``w * H g``, ``H`` and ``g`` the Hessian and the gradient of the loss.

    Removing a weight changes ``||g||^2`` by ``-2 w H g``, to first order: those go that would raise it, or lower it the
    least. So scores have a sign, and a weight of zero, which changes nothing, is in the middle. (The paper's score is
    the negative of this one, and its largest go.) BatchNorm normalises by the batch. A temperature belongs in the loss:
    divide the logits by it, as the paper does by 200. Meant for a model before training, batches with several samples
    of each class, and ``Global``.

    Source: Wang, Zhang, Grosse 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow".
    """

    needs: ClassVar[Needs] = (HessianGradient,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return ``w * H g``; see :meth:`Criterion.score`."""
        return weight * stats[HessianGradient].product.to(weight.dtype)
