"""Swap weights of a mask that is there, without changing any value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.pruning.criteria import Criterion, Wanda
from sparsekit.pruning.solvers.base import LayerProblem, Solution, Solver
from sparsekit.pruning.solvers.least_squares import chosen
from sparsekit.pruning.statistics import InputMean, InputNorm, Needs


@dataclass(frozen=True)
class DSnoT(Solver):
    """Start from a criterion's mask, and swap as long as a row's mean output comes closer to the dense one.

    A row misses ``e = sum of w_j * mean(x_j)`` over what it lost. The lost weight whose ``w_j * mean(x_j)`` over
    ``var(x_j)`` is the largest of the sign of ``e`` comes back, and the kept weight of the lowest score among those
    whose ``w_j * mean(x_j)`` has the other sign goes; where the pattern has groups (N:M), it is the lowest of the same
    group, whatever its sign. A weight moves once at most. Kept weights do not change, and what comes back has its dense
    value. With units of several weights the sums over a unit, and over all rows of a row of units, take their places.

    Args:
        criterion: makes the mask to start from, and scores what is kept.
        tolerance: a row is done when its error is this fraction of what it was.
        cycles: swaps per row at most.
        guard: end a row rather than let its error grow or change its sign.

    Raises:
        PruningError: an option is out of its range.

    Source: Zhang, Zhao, Lin, Sun, Yao, Han, Tanner, Liu, Ji 2023, "Dynamic Sparse No Training: Training-Free
    Fine-tuning for Sparse LLMs"; the paper stops at an absolute error, and its
    guard looks at the sign alone.
    """

    criterion: Criterion = Wanda()  # noqa: RUF009 - frozen
    tolerance: float = 0.1
    cycles: int = 50
    guard: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.criterion, Criterion):
            raise PruningError(f"DSnoT: expected a criterion, got {self.criterion!r}")
        if not self.tolerance >= 0 or self.cycles < 0:
            raise PruningError(
                f"DSnoT: expected tolerance >= 0 and cycles >= 0, got {self.tolerance} and {self.cycles}"
            )

    @property
    def by_row(self) -> bool:
        """Whether the criterion takes the same count of each row."""
        return self.criterion.by_row

    def statistics(self) -> Needs:
        """Return what the criterion needs, and mean and square of the inputs."""
        return tuple(dict.fromkeys((*self.criterion.statistics(), InputMean, InputNorm)))

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Say no where the groups of a pattern of fixed sparsity cannot choose each for itself."""
        if not pattern.fixes_sparsity or _groups_are_free(pattern, shape):
            return None
        return f"swaps within a group, and those of {pattern} do not choose each for itself"

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        swaps, pattern, shape = self.start(problem), problem.pattern, tuple(problem.weight.shape)
        for _ in range(self.cycles):
            if not swaps.advance(self.tolerance, self.guard):
                break
        keep = pattern.spread(swaps.keep, shape)
        return Solution(problem.weight * keep, keep)

    def start(self, problem: LayerProblem) -> Swaps:
        """Return the criterion's mask and its errors."""
        weight, pattern, stats = problem.weight, problem.pattern, problem.stats
        outputs, shape = weight.shape[0], tuple(weight.shape)
        mean = stats[InputMean].mean(outputs)
        variance = (stats[InputNorm].norm(outputs).square() / stats[InputNorm].rows - mean.square()).clamp(min=0)
        moved = pattern.pool((weight.double().reshape(mean.shape) * mean).reshape(shape)).double()
        keep = pattern.pool(chosen(self.criterion, problem).double()) > 0
        scores = pattern.pool(self.criterion.score(weight, stats)).double()
        group = pattern.span(shape) if pattern.fixes_sparsity else 0
        return Swaps(moved, pattern.pool(variance.reshape(shape)).double(), scores, keep, group)


def _groups_are_free(pattern: Pattern, shape: tuple[int, ...]) -> bool:
    """Whether a mask stays legal when the choice of each group moves round by another number of places.

    Moved are the choice that the pattern makes and one of consecutive units: either alone may stay legal by chance.
    """
    span = pattern.span(shape)
    units = pattern.pool(pattern.choose(torch.zeros(shape), 0).double()) > 0
    if units.shape[1] % span or units.numel() == 0:
        return units.numel() == 0
    groups = units.reshape(-1, span)
    places = (torch.arange(span) + torch.arange(len(groups)).unsqueeze(1)) % span
    moved = (choice.gather(1, places) for choice in (groups, groups.sort(dim=1, descending=True).values))
    return all(pattern.admits(pattern.spread(choice.reshape(units.shape), shape)) for choice in moved)


class Swaps:
    """Rows of units between two swaps; all tensors ``(unit rows, unit columns)``.

    Args:
        moved: what each unit adds to the mean output.
        variance: of its inputs.
        scores: higher = keep.
        keep: bool.
        group: units within which a swap has to stay; 0 for a whole row.
    """

    def __init__(self, moved: Tensor, variance: Tensor, scores: Tensor, keep: Tensor, group: int) -> None:
        self.moved, self.scores, self.keep, self.group = moved, scores, keep.clone(), group
        self.gain = moved / torch.where(variance > 0, variance, torch.finfo(variance.dtype).tiny).clamp(min=1e-12)
        self.error = self.fresh()
        self.first = self.error.clone()
        self.going = torch.ones_like(self.error, dtype=torch.bool)
        self.free = torch.ones_like(self.keep)  # what has not moved yet

    def fresh(self) -> Tensor:
        """Return each row's error, summed anew over what is gone."""
        return (self.moved * ~self.keep).sum(dim=1)

    def advance(self, tolerance: float, guard: bool) -> bool:
        """Swap once in every row that is not done; return whether any did."""
        self.going &= self.error.abs() > tolerance * self.first.abs()
        if not self.moved.numel() or not bool(self.going.any()):
            return False
        rows = torch.arange(len(self.error), device=self.error.device)
        sign = self.error.sign().unsqueeze(1)
        back = ~self.keep & self.free & (self.moved * sign > 0)
        comes = torch.where(back, self.gain.abs(), -torch.inf).argmax(dim=1)
        out = self.keep & self.free & (self._near(comes) if self.group else self.moved * sign < 0)
        goes = torch.where(out, self.scores, torch.inf).argmin(dim=1)
        after = self.error - self.moved[rows, comes] + self.moved[rows, goes]
        swaps = self.going & back.any(dim=1) & out.any(dim=1)
        if guard:
            swaps &= (after * self.error >= 0) & (after.abs() < self.error.abs())
        self.keep[rows[swaps], comes[swaps]] = True
        self.keep[rows[swaps], goes[swaps]] = False
        self.free[rows[swaps], comes[swaps]] = False
        self.free[rows[swaps], goes[swaps]] = False
        self.error = torch.where(swaps, after, self.error)
        self.going = swaps
        return bool(swaps.any())

    def _near(self, comes: Tensor) -> Tensor:
        """True in the group of each row's ``comes``."""
        groups = torch.arange(self.keep.shape[1], device=comes.device) // self.group
        return groups == (comes // self.group).unsqueeze(1)
