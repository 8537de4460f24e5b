"""The least-squares problem of one layer, whose outputs are to stay what they are or what they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import as_matrix
from sparsekit.pruning.solvers.base import LayerProblem
from sparsekit.pruning.statistics import CrossGram, Gram, LayerStatistics, Needs, ResidualGap

Targets = Literal["layer", "dense", "residual"]
"""The outputs to reproduce: ``"layer"``, those of the layer's own dense weight on the inputs from the pruned layers
before it; ``"dense"``, those that the layer has in the dense model, so that it also makes up for the layers before;
``"residual"``, these and, at the end of a residual branch, what the sum with the stream lacks."""


def needs_of(targets: Targets) -> Needs:
    """The statistics that ``targets`` take."""
    return {"layer": (Gram,), "dense": (Gram, CrossGram), "residual": (Gram, CrossGram, ResidualGap)}[targets]


def check_options(method: object, damping: float, targets: str) -> None:
    """Raise :class:`PruningError` unless ``damping`` is not negative and ``targets`` are known."""
    if not damping >= 0:
        raise PruningError(f"{type(method).__name__}: expected damping >= 0, got {damping}")
    if targets not in get_args(Targets):
        raise PruningError(f"{type(method).__name__}: expected targets of {get_args(Targets)}, got {targets!r}")


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """``W hessian = goal``, where ``||Y - W X||^2 / tokens + damping ||W - W_dense||^2`` is least.

    Args:
        hessian: ``(groups, n, n)``, second moments of the inputs, damped; never zero on the diagonal.
        goal: ``(groups, rows, n)``.
        dense: ``(groups, rows, n)``, the dense weight.
    """

    hessian: Tensor
    goal: Tensor
    dense: Tensor

    def error(self, weight: Tensor) -> float:
        """Return the damped error of ``weight`` ``(groups, rows, n)``, up to a constant."""
        return float(((weight @ self.hessian - 2 * self.goal) * weight).sum(dtype=torch.float64))

    def refined(self, start: Tensor, keep: Tensor, steps: int) -> Tensor:
        """Bring ``start`` closer to the least squares on ``keep``, by conjugate gradients, all rows at once.

        No step raises the error. With as many steps as a row keeps weights it ends at the exact solution, and it stops
        where the residual is down to rounding.

        Args:
            start: ``(groups, rows, n)``.
            keep: like it, bool.
            steps: most of them.

        Source: Hestenes, Stiefel 1952, with the diagonal as the preconditioner.
        """
        weight = start.masked_fill(~keep, 0.0)
        scale = self.hessian.diagonal(dim1=1, dim2=2).reciprocal().unsqueeze(1)
        residual = (self.goal - weight @ self.hessian).masked_fill_(~keep, 0.0)
        size = (self.goal.square() * scale * keep).sum(dim=2, keepdim=True)
        smallest = size * (4 * torch.finfo(weight.dtype).eps) ** 2
        direction = residual * scale
        slope = (residual * direction).sum(dim=2, keepdim=True)
        for _ in range(steps):
            going = slope > smallest
            if not bool(going.any()):
                break
            image = (direction @ self.hessian).masked_fill_(~keep, 0.0)
            curve = (direction * image).sum(dim=2, keepdim=True)
            step = torch.where(going & (curve > 0), slope / curve, 0.0)
            weight.addcmul_(direction, step)
            residual.addcmul_(image, step, value=-1)
            before, scaled = slope, residual * scale
            slope = torch.where(going, (residual * scaled).sum(dim=2, keepdim=True), 0.0)
            direction.mul_(torch.where(going, slope / before, 0.0)).add_(scaled)
        return weight


def normal_equations(problem: LayerProblem, damping: float, targets: Targets) -> NormalEquations:
    """Set up the least squares of ``problem``; see :class:`NormalEquations`.

    Args:
        problem: with the statistics of :func:`needs_of`.
        damping: fraction of the mean second moment that pulls each weight towards the dense one. Weights of an input
            that never fires are pulled to zero.
        targets: the outputs to reproduce.
    """
    matrix = as_matrix(problem.weight)
    gram = problem.stats[Gram]
    groups, columns = gram.sum.shape[0], gram.sum.shape[1]
    dense = matrix.reshape(groups, -1, columns)
    hessian = (gram.sum / gram.rows).to(matrix.dtype)
    if targets == "layer":
        goal = dense @ hessian
    else:
        goal = dense @ (problem.stats[CrossGram].sum / gram.rows).to(matrix.dtype).transpose(1, 2)
        goal += gap_of(problem.stats, targets, goal)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    alive = diagonal > 0
    mean = (diagonal.sum(dim=1, keepdim=True) / alive.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(diagonal)
    goal += dense * (damping * mean * alive).unsqueeze(1)
    diagonal.add_(torch.where(alive, damping * mean, torch.where(mean > 0, mean, 1.0)))
    return NormalEquations(hessian, goal, dense)


def gap_of(stats: LayerStatistics, targets: Targets, like: Tensor) -> Tensor:
    """The mean of ``(d - r) x^T`` where ``targets`` hold what a residual lacks, ``(groups, rows, n)``; else 0."""
    if targets != "residual" or not stats[ResidualGap].sum.shape[2]:
        return like.new_zeros(())
    return (stats[ResidualGap].sum / stats[Gram].rows).to(like.dtype).transpose(1, 2)


def as_weight(rows: Tensor, problem: LayerProblem) -> Tensor:
    """``(groups, rows, n)`` in the shape of the weight."""
    return rows.reshape(problem.weight.shape)
