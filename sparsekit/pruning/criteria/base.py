"""What a criterion is: weights and statistics in, scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.statistics import LayerStatistics, Statistic


class Criterion(ABC):
    """Says how much each weight of a layer matters; a pattern then selects.

    Subclasses are frozen dataclasses, so that a criterion is a value that prints and compares.
    """

    needs: ClassVar[tuple[type[Statistic], ...]] = ()
    """The statistics that calibration has to collect; none means that no batches are needed."""

    by_row: ClassVar[bool] = False
    """Whether scores compare within an output row only; then each row loses the same count."""

    @abstractmethod
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Score each weight, higher = keep.

        Args:
            weight: ``(out, in, ...)``, float32 or float64, finite.
            stats: what :attr:`needs` asked for, and the name of the parameter.

        Returns:
            finite scores of ``weight.shape``.
        """
