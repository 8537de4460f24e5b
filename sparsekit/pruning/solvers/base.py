"""What a solver is: one layer's problem in, mask and new weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns import Pattern
from sparsekit.patterns.base import removed
from sparsekit.pruning.statistics import LayerStatistics, Needs


@dataclass(frozen=True)
class LayerProblem:
    """One layer to prune.

    Args:
        name: of the parameter, for messages.
        weight: ``(out, in, ...)``, float32 or float64, finite; a solver does not write into it.
        stats: what the solver's ``needs`` asked for.
        pattern: what the mask has to obey.
        sparsity: fraction of units that go, in [0, 1]; 1 comes from an allocation that gives a layer up. While layers
            are ranked, that of the whole model.
    """

    name: str
    weight: Tensor
    stats: LayerStatistics
    pattern: Pattern
    sparsity: float


@dataclass(frozen=True)
class Solution:
    """The new weight ``(out, in, ...)``, zero where removed, and the mask ``keep`` (bool, True = stays)."""

    weight: Tensor
    keep: Tensor


class Solver(ABC):
    """Removes weights of a layer and moves the others to make up for it."""

    needs: ClassVar[Needs] = ()
    """The statistics that calibration has to collect."""

    @property
    def rounds(self) -> int:
        """How often the model is looked at and pruned on the way to the budget; the density falls geometrically."""
        return 1

    @property
    def by_row(self) -> bool:
        """Whether each row of units loses the same count, as criteria that compare within a row have it."""
        return False

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Say in half a sentence why a weight of ``shape`` cannot be solved for ``pattern``; None where it can."""
        return None

    def statistics(self) -> Needs:
        """Return what this very solver needs: :attr:`needs`, unless its settings say otherwise."""
        return self.needs

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; exactly ``floor(sparsity * units)`` units of the pattern go, of a row if :attr:`by_row`."""


class RankingSolver(Solver):
    """A solver that scores first, so that an allocation can rank its units across layers.

    :meth:`solve` removes the units with the lowest of the same scores; a score is the rise of one common loss.
    """

    @abstractmethod
    def score(self, problem: LayerProblem) -> Tensor:
        """Score each weight ``(out, in, ...)``, finite, higher = keep.

        The pattern sums the scores of a unit's weights; a solver that knows the cost of a unit as a whole shares it out
        among them.
        """

    def choose(self, problem: LayerProblem, scores: Tensor) -> Tensor:
        """Return what stays, bool ``(out, in, ...)``: all but the units of the lowest ``scores``."""
        high, wide = problem.pattern.grid(tuple(scores.shape))
        return problem.pattern.choose(scores, removed(problem.sparsity, high * wide))
