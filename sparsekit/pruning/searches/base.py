"""What a search is: the whole model's problem in, masks and new weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.solvers import Solution

__all__ = ["ModelProblem", "Search"]


class Search(ABC):
    """Tries masks on the model and learns from how well it does."""

    counts_units: ClassVar[bool] = True
    """Whether every layer loses the requested fraction of its units; otherwise what the search says it does."""

    @property
    def needs_loss(self) -> bool:
        """Whether it calls the loss function; batches it always reads."""
        return True

    @property
    def sets_sparsity(self) -> bool:
        """Whether it finds out how much goes, so that the user need not say."""
        return False

    def refuses(self, problem: ModelProblem) -> str | None:
        """Say in half a sentence why this problem is not one for this search; None where it is."""
        return None

    @abstractmethod
    def search(self, problem: ModelProblem) -> dict[str, Solution]:
        """Solve for each of ``problem.targets``, by parameter name; the model itself is left as it was.

        Raises:
            CalibrationError: the model or the loss function refuses a batch.
        """
