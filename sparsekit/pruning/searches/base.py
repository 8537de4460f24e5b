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
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009 - frozen
    sparsity: float = 0.0


class Search(ABC):
    """Tries masks on the model and learns from how well it does."""

    needs_loss: ClassVar[bool] = True
    """Whether it calls the loss function; batches it always reads."""

    def refuses(self, problem: ModelProblem) -> str | None:
        """Say in half a sentence why this problem is not one for this search; None where it is."""
        return None

    @abstractmethod
    def search(self, problem: ModelProblem) -> dict[str, Solution]:
        """Solve for each of ``problem.targets``, by parameter name; the model itself is left as it was.

        Raises:
            CalibrationError: the model or the loss function refuses a batch.
        """
