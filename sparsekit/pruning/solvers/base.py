"""What a solver is: one layer's problem in, mask and new weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns import Pattern
from sparsekit.pruning.statistics import LayerStatistics, Statistic


@dataclass(frozen=True)
class LayerProblem:
    """One layer to prune.

    Args:
        name: of the parameter, for messages.
        weight: ``(out, in, ...)``, float32 or float64, finite; a solver does not write into it.
        stats: what the solver's ``needs`` asked for.
        pattern: what the mask has to obey.
        sparsity: fraction of units that go, in [0, 1).
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

    needs: ClassVar[tuple[type[Statistic], ...]] = ()
    """The statistics that calibration has to collect."""

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; exactly ``floor(sparsity * units)`` units of the pattern go."""
