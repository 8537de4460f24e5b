"""Numbers that depend on the step alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sparsekit.errors import PruningError


class Schedule(ABC):
    """A number for each step; pure, and constant before its begin and after its end.

    Subclasses are frozen dataclasses.
    """

    @abstractmethod
    def value(self, step: float) -> float:
        """Return the number for ``step``, counted from 0."""


@dataclass(frozen=True)
class Ramp(Schedule):
    """From ``start`` to ``stop`` between the steps ``begin`` and ``end``; a subclass says along which curve.

    Raises:
        PruningError: ``end`` is before ``begin``, or ``begin`` is negative.
    """

    start: float
    stop: float
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise PruningError(f"schedule: expected 0 <= begin <= end, got begin={self.begin}, end={self.end}")

    def progress(self, step: float) -> float:
        """How much of the way is done at ``step``, in [0, 1]."""
        if step >= self.end:
            return 1.0
        return 0.0 if step <= self.begin else (step - self.begin) / (self.end - self.begin)


@dataclass(frozen=True)
class Linear(Ramp):
    """Along a line."""

    def value(self, step: float) -> float:
        """Return the number for ``step``."""
        return self.start + (self.stop - self.start) * self.progress(step)


@dataclass(frozen=True)
class Cubic(Ramp):
    """``stop + (start - stop) * (1 - progress) ** 3``: most of it early.

    Source: Zhu, Gupta 2017, "To prune, or not to prune", equation 1.
    """

    def value(self, step: float) -> float:
        """Return the number for ``step``."""
        return self.stop + (self.start - self.stop) * (1.0 - self.progress(step)) ** 3


@dataclass(frozen=True)
class Cosine(Ramp):
    """Along half a wave of the cosine, as drop fractions fall.

    Source: Dettmers, Zettlemoyer 2019, "Sparse Networks from Scratch"; Evci et al. 2020, "Rigging the Lottery",
    section 3(2).
    """

    def value(self, step: float) -> float:
        """Return the number for ``step``."""
        return self.stop + (self.start - self.stop) * 0.5 * (1.0 + math.cos(math.pi * self.progress(step)))


@dataclass(frozen=True)
class Exponential(Ramp):
    """``start * (stop / start) ** progress``: the same factor every step.

    Source: Tessier et al. 2020, "Rethinking Weight Decay for Efficient Neural Network Pruning", equation 3.

    Raises:
        PruningError: as :class:`Ramp`, or ``start`` and ``stop`` are not both positive.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start > 0 and self.stop > 0):
            raise PruningError(f"schedule: expected start and stop above 0, got {self.start} and {self.stop}")

    def value(self, step: float) -> float:
        """Return the number for ``step``."""
        return self.start * math.pow(self.stop / self.start, self.progress(step))


def geometric_sparsity(sparsity: float, done: float) -> float:
    """Sparsity after the share ``done`` of rounds that each remove the same fraction of what is left.

    Source: Frankle, Carbin 2018, "The Lottery Ticket Hypothesis", iterative pruning.
    """
    return sparsity if done >= 1.0 else 1.0 - (1.0 - sparsity) ** done
