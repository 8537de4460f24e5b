"""What an allocation is: one budget in, a sparsity per layer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.problem import ModelProblem


class Allocation(ABC):
    """Shares one budget of zeros among layers.

    Subclasses are frozen dataclasses, so that an allocation is a value that prints, compares and hashes.
    """

    compares_scores: ClassVar[bool] = False
    """Whether the values of the scores matter; otherwise only their shapes are read."""

    @property
    def needs_batches(self) -> bool:
        """Whether :meth:`prepare` reads the batches."""
        return False

    def budget(self, requested: float | None, sizes: Mapping[str, int]) -> float | None:
        """Return the overall sparsity when ``requested`` was asked for: that, unless the allocation sets it itself.

        Args:
            requested: fraction of all units that go, or None.
            sizes: weights of each layer, by parameter name.

        Raises:
            PruningError: the request contradicts what the allocation sets.
        """
        return requested

    def without_scores(self) -> Allocation | None:
        """Return what shares the budget where the method's scores do not compare across layers, or has none.

        None where there is no such thing. Allocations that do not look at scores are themselves the answer.
        """
        return None if self.compares_scores else self

    def prepare(self, problem: ModelProblem) -> Allocation:
        """Return this allocation with all that it has to know about a model; itself, where that is nothing.

        Raises:
            CalibrationError: it needs batches or a loss function, and there are none.
            PruningError: it does not fit the model.
        """
        return self

    @abstractmethod
    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return each layer's sparsity, in [0, 1]; 1 means that a layer loses everything.

        Args:
            scores: by parameter name; where :attr:`compares_scores`, the scores of a layer's units, higher = keep,
                and minus infinity for units that are gone already; otherwise anything of the weight's shape.
            sparsity: fraction of all units that go, in [0, 1).

        Raises:
            PatternError: the sparsity is outside [0, 1).
            PruningError: the budget cannot be met.
        """


def check_share(name: str, value: float) -> None:
    """Raise :class:`PruningError` unless ``value``, the argument called ``name``, is in [0, 1)."""
    if not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise PruningError(f"{name}: expected a fraction in [0, 1), got {value!r}")
