"""Choose input channels by the LASSO, then solve for the weights of those that stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import as_matrix, removed
from sparsekit.pruning.solvers.base import LayerProblem, Solution, Solver
from sparsekit.pruning.solvers.normal_equations import Targets, as_weight, check_options, needs_of, normal_equations
from sparsekit.pruning.statistics import Needs

Vector = NDArray[np.float64]

SWEEPS = 1000
"""Rounds of coordinate descent at most."""
PRECISE = 1e-10
"""It ends where no coefficient moves by more than this fraction of the largest."""
HALVINGS = 60
"""Bisections of the penalty at most."""


@dataclass(frozen=True)
class ChannelLasso(Solver):
    """Remove input channels: ``min ||Y - sum_i b_i X_i W_i^T||^2 / (2 tokens outputs) + penalty * ||b||_1``.

    One coefficient per channel. The penalty is doubled until few enough are left, then bisected until the count is
    right; where several leave at once, those of the largest coefficients stay. What is left is solved for by least
    squares. For patterns whose units are whole input channels: ``Channel()``, or blocks as high as the layer.

    Args:
        penalty: to start the doubling from, as a fraction of the one that removes every channel.
        damping: pulls each weight towards the dense one in the least squares, as a fraction of the mean second moment.
        targets: ``"layer"`` reproduces the outputs of the dense weight on the inputs from the layers pruned before it,
            ``"dense"`` those of the dense model, so that it also makes up for the layers before, and ``"residual"``
            for the stream that a residual branch is added to as well.

    Raises:
        PruningError: an option is out of its range.

    Source: He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1; the filters
    are not scaled to norm 1 first.
    """

    penalty: float = 1e-3
    damping: float = 1e-4
    targets: Targets = "dense"

    def __post_init__(self) -> None:
        check_options(self, self.damping, self.targets)
        if not self.penalty > 0:
            raise PruningError(f"ChannelLasso: expected penalty > 0, got {self.penalty}")

    def statistics(self) -> Needs:
        """Return the second moments of the inputs, with what ``targets`` take of the dense model."""
        return needs_of(self.targets)

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Say no where a unit is something else than all weights of some columns."""
        if channels(pattern, shape) is not None:
            return None
        return f"removes whole input channels, as Channel() has them, and {pattern} has other units"

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        pattern, shape = problem.pattern, tuple(problem.weight.shape)
        found = channels(pattern, shape)
        if found is None:
            raise PruningError(f"{problem.name}: ChannelLasso {self.refuses(pattern, shape)}")
        columns, count = found.to(problem.weight.device), pattern.grid(shape)[1]
        gone = removed(problem.sparsity, count)
        if not gone:
            return Solution(problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool))
        equations = normal_equations(problem, 0.0, self.targets)
        moments = (equations.hessian * (equations.dense.transpose(1, 2) @ equations.dense)).sum(dim=0)
        slopes = (equations.dense * equations.goal).sum(dim=(0, 1))
        lasso = Lasso(_pooled(_pooled(moments, columns, count).T, columns, count), _pooled(slopes, columns, count))
        sizes = torch.from_numpy(lasso.search(count - gone, self.penalty)).abs().to(problem.weight.device)
        scores = torch.where(columns >= 0, sizes[columns.clamp(min=0)], 0.0)
        keep = pattern.choose(scores.expand(shape[0], -1).reshape(shape), gone)
        kept = as_matrix(keep)[0].nonzero().flatten()
        return Solution(as_weight(self._solved(problem, kept), problem), keep)

    def _solved(self, problem: LayerProblem, kept: Tensor) -> Tensor:
        """The least squares on the columns ``kept``, ``(groups, rows, n)``."""
        equations = normal_equations(problem, self.damping, self.targets)
        lower, info = torch.linalg.cholesky_ex(equations.hessian[:, kept][:, :, kept])
        if bool((info != 0).any()):
            raise PruningError(
                f"{problem.name}: expected positive definite second moments of the inputs; try a larger damping"
            )
        weight = torch.zeros_like(equations.dense)
        goal = equations.goal[:, :, kept].transpose(1, 2)
        weight[:, :, kept] = torch.cholesky_solve(goal, lower).transpose(1, 2)
        return weight


class Lasso:
    """``min b^T A b / 2 - b^T c + penalty * ||b||_1`` by coordinate descent.

    Args:
        moments: ``A``, ``(n, n)``, symmetric positive semi-definite.
        slopes: ``c``, ``(n,)``.
    """

    def __init__(self, moments: Tensor, slopes: Tensor) -> None:
        self.moments: Vector = moments.double().cpu().numpy()
        self.slopes: Vector = slopes.double().cpu().numpy()

    def solve(self, penalty: float, start: Vector | None = None) -> Vector:
        """Return ``b`` for one penalty, from ``start`` or zero."""
        found = np.zeros_like(self.slopes) if start is None else start.copy()
        left = self.slopes - self.moments @ found
        curve = self.moments.diagonal()
        alive = np.flatnonzero(curve > 0)
        active = alive
        for _ in range(SWEEPS):
            moved = 0.0
            for i in active:
                pull = left[i] + curve[i] * found[i]
                value = np.sign(pull) * max(abs(pull) - penalty, 0.0) / curve[i]
                if value != found[i]:
                    left -= self.moments[i] * (value - found[i])
                    moved = max(moved, abs(value - found[i]))
                    found[i] = value
            settled = moved <= PRECISE * max(np.abs(found).max(), 1e-300)
            if settled and active is alive:
                break
            # sweep over the nonzero ones until they settle, then over all once more
            active = alive if settled else np.flatnonzero(found)
        return found

    def search(self, count: int, fraction: float) -> Vector:
        """Return the coefficients of the largest penalty that was found to leave at least ``count`` of them.

        Args:
            count: coefficients to keep.
            fraction: of the penalty that removes all, to start the doubling from.
        """
        high = fraction * max(float(np.abs(self.slopes).max()), 1e-300)
        low, best = 0.0, self.solve(0.0)
        found = self.solve(high, best)
        while np.count_nonzero(found) > count:
            low, best = high, found
            high *= 2
            found = self.solve(high, found)
        for _ in range(HALVINGS):
            if np.count_nonzero(found) == count:
                return found
            middle = (low + high) / 2
            found = self.solve(middle, best)
            if np.count_nonzero(found) >= count:
                low, best = middle, found
            else:
                high = middle
        return best


def channels(pattern: Pattern, shape: tuple[int, ...]) -> Tensor | None:
    """Which unit of ``pattern`` each column of the weight's matrix view is in; -1 for one that is in none.

    None where the units are not whole columns.
    """
    high, wide = pattern.grid(shape)
    if high != 1 or pattern.fixes_sparsity:
        return None
    number = torch.zeros(shape[0], 1, dtype=torch.long)
    for bit in range((wide + 1).bit_length()):  # what is left over has all bits, and so a number above the last unit
        units = (torch.arange(wide).reshape(1, -1) >> bit) & 1
        number = number + (as_matrix(pattern.spread(units.bool(), shape)).long() << bit)
    if not bool((number == number[:1]).all()):
        return None
    return torch.where(number[0] < wide, number[0], -1)


def _pooled(values: Tensor, columns: Tensor, count: int) -> Tensor:
    """Sum ``values`` ``(columns, ...)`` over the columns of each channel, in float64."""
    used = columns >= 0
    summed = torch.zeros(count, *values.shape[1:], dtype=torch.float64, device=values.device)
    return summed.index_add_(0, columns[used], values[used].double())
