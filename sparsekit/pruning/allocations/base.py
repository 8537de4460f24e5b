"""What an allocation is: one budget in, a sparsity per layer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.statistics import ModelView


class Allocation(ABC):
    """Shares one budget of zeros among layers."""

    compares_scores: ClassVar[bool] = False
    """Whether the values of the scores matter; otherwise only their shapes are read."""

    def prepare(self, view: ModelView) -> Allocation:
        """Return this allocation with all that it has to know about a model; itself, where that is nothing.

        Raises:
            CalibrationError: it needs batches or a loss function, and there are none.
        """
        return self

    @abstractmethod
    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return each layer's sparsity, in [0, 1]; 1 means that a layer loses everything.

        Args:
            scores: by parameter name; where :attr:`compares_scores`, the scores of a layer's units, higher = keep,
                otherwise anything of the weight's shape.
            sparsity: fraction of all units that go, in [0, 1).

        Raises:
            PatternError: the sparsity is outside [0, 1).
        """
