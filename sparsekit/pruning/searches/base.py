"""What a search is: the whole model's problem in, masks and new weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.solvers import Solution
from sparsekit.pruning.statistics import ModelView


@dataclass(frozen=True)
class ModelProblem(ModelView):
    """A model to prune.

    Args:
        pattern: what every mask has to obey.
        sparsity: fraction of all units that go, in [0, 1).
        open_ended: no sparsity was asked for, so that the method says how much goes; ``sparsity`` is then 0.
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009 - frozen
    sparsity: float = 0.0
    open_ended: bool = False


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
