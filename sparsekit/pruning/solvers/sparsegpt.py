"""Remove column by column, and let the columns to the right make up for it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError, SparsekitWarning
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import as_matrix, removed
from sparsekit.pruning.solvers.base import LayerProblem, Solution, Solver
from sparsekit.pruning.solvers.normal_equations import (
    Targets,
    as_weight,
    check_options,
    gap_of,
    needs_of,
    normal_equations,
)
from sparsekit.pruning.statistics import CrossGram, Gram, LayerStatistics, Needs

SMALL = 256
"""Columns of a triangle that is inverted at once."""


@dataclass(frozen=True)
class SparseGPT(Solver):
    """Minimise ``||(W - W') X||`` one column at a time.

    With ``H = X X^T / tokens + damping * mean(diag) * I`` and ``U`` the upper Cholesky factor of ``H^-1``, removing
    ``w_j`` costs ``(w_j / U_jj)^2``; the columns to the right then take ``-(w_j / U_jj) * U_j,:``. What goes is chosen
    per slab of ``block_size`` columns (rounded up to whole groups of the pattern), N:M when its group is reached.
    Inputs that never fire are removed first, and their weights are set to zero.

    Args:
        damping: added to the diagonal of ``H``, as a fraction of its mean.
        block_size: columns per slab.
        targets: ``"layer"`` reproduces the outputs of the dense weight on the inputs from the layers pruned before it,
            ``"dense"`` those of the dense model, so that it also makes up for the layers before, and ``"residual"``
            for the stream that a residual branch is added to as well. These two start from
            the weight that does so best without a mask, ``W + (Y - W X) X^T H^-1``.
        steps: of conjugate gradients on the chosen support, at most; 0 leaves it to the columns.

    Raises:
        PruningError: an option is out of its range.

    Source: Frantar, Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    algorithm 1.
    """

    damping: float = 0.01
    block_size: int = 128
    targets: Targets = "layer"
    steps: int = 0

    def __post_init__(self) -> None:
        if self.damping < 0 or self.block_size < 1:
            raise PruningError(
                f"SparseGPT: expected damping >= 0 and block_size >= 1, got {self.damping} and {self.block_size}"
            )
        check_options(self, self.damping, self.targets)
        if self.steps < 0:
            raise PruningError(f"SparseGPT: expected steps >= 0, got {self.steps}")

    def statistics(self) -> Needs:
        """Return the second moments of the inputs, with what ``targets`` take of the dense model."""
        return needs_of(self.targets)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`. A grouped convolution has one ``H`` per group of rows."""
        matrix = as_matrix(problem.weight)
        slabs = self._slabs(problem.pattern, tuple(problem.weight.shape), problem.sparsity)
        gram = problem.stats[Gram]
        if not matrix.numel() or not (problem.pattern.fixes_sparsity or any(gone for _, _, gone in slabs)):
            return Solution(problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool))
        dense = matrix.reshape(gram.sum.shape[0], -1, matrix.shape[1])
        factor = inverse_factor(gram.sum, self.damping, problem.name).to(matrix.dtype)  # its scale does not matter
        rows = dense if self.targets == "layer" else self._unmasked(dense, factor, problem.stats)
        weight = rows.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # a column is contiguous
        weight[gram.sum.diagonal(dim1=1, dim2=2) == 0] = 0
        keep = torch.ones_like(weight, dtype=torch.bool)
        for start, stop, gone in slabs:
            slab = weight[:, start:stop]
            kept = keep[:, start:stop]
            errors = _solve_slab(slab, factor[:, start:stop, start:stop], kept, problem, gone)
            weight[:, stop:].baddbmm_(factor[:, start:stop, stop:].transpose(1, 2), errors, alpha=-1)
        del factor
        weight, keep = weight.transpose(1, 2).contiguous(), keep.transpose(1, 2).contiguous()
        if self.steps:
            equations = normal_equations(problem, self.damping, self.targets)
            weight = equations.refined(weight, keep, self.steps)
        return Solution(as_weight(weight, problem), as_weight(keep, problem))

    def _unmasked(self, dense: Tensor, factor: Tensor, stats: LayerStatistics) -> Tensor:
        """The weight that comes closest to the targets, damped towards ``dense`` ``(groups, rows, n)``."""
        gram, cross = stats[Gram].sum.to(dense.dtype), stats[CrossGram].sum.to(dense.dtype)
        missing = dense @ cross.transpose(1, 2) - dense @ gram
        missing += stats[Gram].rows * gap_of(stats, self.targets, dense)
        return dense + missing @ factor.transpose(1, 2) @ factor

    def _slabs(self, pattern: Pattern, shape: tuple[int, ...], sparsity: float) -> list[tuple[int, int, int]]:
        """Cut the columns into slabs ``(start, stop, units that go)`` whose counts add up to the exact total."""
        span, columns = pattern.span(shape), math.prod(shape[1:])
        width = -(-self.block_size // span) * span
        high, wide = pattern.grid(shape)
        total, done, units, slabs = removed(sparsity, high * wide), 0, 0, []
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            units += high * pattern.grid(_part(shape, stop - start))[1]
            due = total * units // max(1, high * wide)
            slabs.append((start, stop, due - done))
            done = due
        return slabs


def inverse_factor(hessian: Tensor, damping: float, name: str) -> Tensor:
    """Upper triangular ``U`` with ``U^T U = (hessian + damping * mean(diag) * I)^-1``.

    With rows and columns in reverse order, ``H = L L^T`` is ``M M^T`` with ``M`` upper triangular, and ``U = M^-1``:
    one Cholesky and one triangular solve, and ``H`` is never inverted.

    Args:
        hessian: ``(groups, n, n)``, symmetric positive semi-definite; a zero diagonal entry (dead input) counts as 1.
        damping: fraction of the mean diagonal that is added.
        name: of the parameter, for messages.

    Raises:
        PruningError: the matrix stays indefinite in float64 even with a damping of 1.
    """
    attempts = [(hessian.dtype, damping), (torch.float64, damping)]
    while attempts[-1][1] < 1:
        attempts.append((torch.float64, min(1.0, max(1e-4, 10 * attempts[-1][1]))))
    for dtype, used in attempts:
        factor = _factor(hessian.to(dtype), used)
        if factor is None:
            continue
        if (dtype, used) != attempts[0]:
            what = f"{name}: the inputs' second moments are not positive definite with a damping of {damping:g}"
            warnings.warn(f"{what}; continued in float64 with {used:g}", SparsekitWarning, stacklevel=2)
        return factor
    raise PruningError(f"{name}: expected positive definite second moments of the inputs, got an indefinite matrix")


def _factor(hessian: Tensor, damping: float) -> Tensor | None:
    """The factor of :func:`inverse_factor`, or None where the matrix is not positive definite in its dtype."""
    damped = hessian.flip(1, 2)
    diagonal = damped.diagonal(dim1=1, dim2=2)
    alive = diagonal > 0
    mean = diagonal.sum(dim=1, keepdim=True) / alive.sum(dim=1, keepdim=True).clamp(min=1)
    diagonal.copy_(torch.where(alive, diagonal, torch.where(mean > 0, mean, 1.0)) + damping * mean)
    lower, info = torch.linalg.cholesky_ex(damped)
    del damped, diagonal  # as large as the second moments, which may be half a gigabyte
    if bool((info != 0).any()):
        return None
    factor = lower.flip(1, 2)
    del lower
    _invert_upper(factor)
    return factor if bool(torch.isfinite(factor.sum())) else None


def _invert_upper(matrix: Tensor) -> None:
    """Invert upper triangular ``(groups, n, n)`` in place, half by half."""
    columns = matrix.shape[1]
    if columns <= SMALL:
        eye = torch.eye(columns, device=matrix.device, dtype=matrix.dtype).expand_as(matrix)
        matrix.copy_(torch.linalg.solve_triangular(matrix, eye, upper=True))
        return
    half = columns // 2
    first, corner, last = matrix[:, :half, :half], matrix[:, :half, half:], matrix[:, half:, half:]
    _invert_upper(first)
    _invert_upper(last)
    corner.copy_(first @ corner @ last).neg_()


def _part(shape: tuple[int, ...], columns: int) -> tuple[int, ...]:
    """The shape of ``columns`` columns of a weight of ``shape``: with its kernels where they are whole."""
    taps = math.prod(shape[2:])
    return (shape[0], columns // taps, *shape[2:]) if columns % taps == 0 else (shape[0], columns)


def _solve_slab(slab: Tensor, factor: Tensor, keep: Tensor, problem: LayerProblem, gone: int) -> Tensor:
    """Choose and remove in place in one slab; return each removal's error for the columns to the right.

    Args:
        slab: ``(groups, columns, rows)``, the weights.
        factor: ``(groups, columns, columns)``, the slab's part of ``U``.
        keep: like ``slab``, bool; the choice is written here.
        problem: whose pattern chooses.
        gone: units of the pattern that go.
    """
    columns, shape, pattern = slab.shape[1], tuple(problem.weight.shape), problem.pattern
    diagonal = factor.diagonal(dim1=1, dim2=2).unsqueeze(2)
    errors = torch.empty_like(slab)
    step = pattern.span(shape) if pattern.fixes_sparsity else columns
    for start in range(0, columns, step):
        now = slice(start, start + step)
        scores = _rows_first((slab[:, now] / diagonal[:, now]).square())
        chosen = pattern.choose(scores.reshape(_part(shape, scores.shape[1])), gone)
        keep[:, now] = chosen.reshape(slab.shape[0], slab.shape[2], -1).transpose(1, 2)
        for j in range(start, min(start + step, columns)):
            error = torch.where(keep[:, j], 0.0, slab[:, j]) / diagonal[:, j]
            slab[:, j + 1 :].baddbmm_(factor[:, j, j + 1 :, None], error[:, None], alpha=-1)
            slab[:, j].masked_fill_(~keep[:, j], 0.0)
            errors[:, j] = error
    return errors


def _rows_first(columns_first: Tensor) -> Tensor:
    """``(groups, columns, rows per group)`` as the matrix ``(rows, columns)``."""
    return columns_first.transpose(1, 2).flatten(0, 1)
