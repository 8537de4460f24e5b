"""Keep what is large beside the others of its row and column, where its input is large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import as_matrix
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import InputNorm, LayerStatistics, Needs


@dataclass(frozen=True)
class RIA(Criterion):
    """``(|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) * ||x_j||_2^power``.

    Args:
        power: of the norm of the input; 0 gives the relative importance alone.
        by_row: compare within each output row instead of within the whole layer.

    Raises:
        PruningError: the power is negative.

    Source: Zhang, Bai, Lin, Zhao, Hou, Cannistraci 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for
    Large Language Models".
    """

    power: float = 0.5
    by_row: bool = False  # type: ignore[misc]  # a setting here
    needs: ClassVar[Needs] = (InputNorm,)

    def __post_init__(self) -> None:
        if not self.power >= 0:
            raise PruningError(f"RIA: expected power >= 0, got {self.power}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Multiply relative magnitudes by a power of the norms of their inputs; see :meth:`Criterion.score`.

        A column belongs to one input: a grouped convolution has columns of its own in each group.
        """
        norm = stats[InputNorm].norm(weight.shape[0])
        groups = stats[InputNorm].sum.shape[0]
        relative = relative_importance(as_matrix(weight), groups)
        return (relative * norm.pow(self.power)).to(weight.dtype).reshape(weight.shape)


def relative_importance(matrix: Tensor, groups: int = 1) -> Tensor:
    """``|w| / column sum + |w| / row sum`` of ``(rows, columns)`` in float64; rows and columns of zeros stay zero."""
    size = matrix.abs().double().reshape(groups, -1, matrix.shape[1])
    by_column, by_row = size.sum(dim=1, keepdim=True), size.sum(dim=2, keepdim=True)
    relative = size / torch.where(by_column > 0, by_column, 1.0) + size / torch.where(by_row > 0, by_row, 1.0)
    return relative.reshape(matrix.shape)
