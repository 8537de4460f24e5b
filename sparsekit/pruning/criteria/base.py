"""What a criterion is: weights and statistics in, scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.statistics import LayerStatistics, Needs


class Criterion(ABC):
    """Says how much each weight of a layer matters; a pattern then selects.

    Subclasses are frozen dataclasses, so that a criterion is a value that prints and compares.
    """

    needs: ClassVar[Needs] = ()
    """The statistics that calibration has to collect; none means that no batches are needed."""

    by_row: ClassVar[bool] = False
    """Whether scores compare within an output row only; then each row loses the same count."""

    revives: ClassVar[bool] = False
    """With several rounds: whether every round scores the dense weights, so that what went can come back."""

    @property
    def rounds(self) -> int:
        """How often the model is scored and pruned on the way to the budget; the density falls geometrically."""
        return 1

    @property
    def sets_sparsity(self) -> bool:
        """Whether the criterion alone says how much of a layer goes, so that the user need not."""
        return False

    def statistics(self) -> Needs:
        """Return what this very criterion needs: :attr:`needs`, unless its settings say otherwise."""
        return self.needs

    @abstractmethod
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Score each weight, higher = keep.

        Args:
            weight: ``(out, in, ...)``, float32 or float64, finite.
            stats: what :attr:`needs` asked for, and the name of the parameter.

        Returns:
            finite scores of ``weight.shape``.
        """

    def share(self, name: str, units: Tensor, share: float) -> float:
        """Return the fraction of a layer's units that goes; ``share``, unless the criterion sets it itself.

        Args:
            name: of the parameter.
            units: the pooled scores, ``(unit rows, unit columns)``.
            share: what the allocation gave to the layer.
        """
        return share
