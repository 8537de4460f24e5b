"""Keep what is large where its input is large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import InputNorm, LayerStatistics, Needs


@dataclass(frozen=True)
class Wanda(Criterion):
    """``|w_ij| * ||x_j||_2``, compared within each output row.

    Source: Sun, Liu, Bair, Kolter 2023, "A Simple and Effective Pruning Approach for Large Language Models", eq. 1.
    """

    needs: ClassVar[Needs] = (InputNorm,)
    by_row: ClassVar[bool] = True

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Multiply magnitudes by the norms of their inputs; see :meth:`Criterion.score`."""
        norm = stats[InputNorm].norm(weight.shape[0])
        return weight.abs() * norm.to(weight.dtype).reshape(weight.shape)
