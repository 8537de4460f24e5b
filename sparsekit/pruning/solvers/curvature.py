"""The second derivatives of a loss within blocks of weights."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsekit.errors import CalibrationError, SparsekitWarning
from sparsekit.pruning.solvers.base import LayerProblem, Solution
from sparsekit.pruning.solvers.layout import Layout
from sparsekit.pruning.statistics import Gram, SampleGradients

NUMBERS = 1 << 20
"""Entries of the blocks that are in work at a time."""
LEAST_DAMPING = 1e-6
"""What singular blocks are damped with first, as a fraction of the mean diagonal."""


@dataclass(eq=False)
class Curvature(ABC):
    """``F + damping * mean(diag F) * I`` of one layer in blocks, in float64.

    Args:
        problem: the layer.
        layout: the blocks.
        damping: fraction of the mean diagonal of the whole layer that is added. Blocks that stay singular get more,
            which is said in a warning.
    """

    problem: LayerProblem
    layout: Layout
    damping: float
    scale: float = field(init=False)
    warned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.scale = self.mean_diagonal()

    @abstractmethod
    def mean_diagonal(self) -> float:
        """The mean of the diagonal of ``F`` over all weights of the layer; 1 where it is zero everywhere."""

    @abstractmethod
    def plain(self, part: slice) -> Tensor:
        """The blocks of ``F`` without damping, ``(blocks of part, size, size)``, zero where there is no weight."""

    def damped(self, part: slice) -> tuple[Tensor, Tensor]:
        """The damped blocks and their lower Cholesky factors, both ``(blocks of part, size, size)``."""
        blocks = self.plain(part)
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        diagonal += self.damping * self.scale
        diagonal.masked_fill_(self.layout.index[part] < 0, self.scale)
        factors, bad = _factors(blocks)
        used = self.damping
        while bool(bad.any()):
            more = max(10 * used, LEAST_DAMPING)
            diagonal[bad] += (more - used) * self.scale
            used = more
            factors[bad], bad[bad.clone()] = _factors(blocks[bad])
        if used > self.damping and not self.warned:
            self.warned = True
            what = f"{self.problem.name}: the curvature is not positive definite with a damping of {self.damping:g}"
            warnings.warn(f"{what}; singular blocks continue with up to {used:g}", SparsekitWarning, stacklevel=2)
        return blocks, factors

    def refit(self, part: slice, keep: Tensor) -> Tensor:
        """The best weights of each block with the support ``keep``, ``(blocks of part, size)``.

        With ``K`` what stays and ``S`` what goes, ``w_K + F_KK^-1 F_KS w_S``: what exact removal one by one, or all at
        once, ends with in any order. Solved for all blocks together, with the rows and columns of ``S`` those of the
        identity.
        """
        keep = keep | (self.layout.index[part] < 0)
        weight = self.layout.gather(self.problem.weight, part).double()
        if bool(keep.all()):
            return weight
        blocks, _ = self.damped(part)
        pushed = torch.bmm(blocks, weight.masked_fill(keep, 0.0).unsqueeze(2)).squeeze(2).masked_fill(~keep, 0.0)
        blocks.masked_fill_(~(keep.unsqueeze(1) & keep.unsqueeze(2)), 0.0)
        blocks.diagonal(dim1=1, dim2=2).masked_fill_(~keep, self.scale)
        moved = torch.cholesky_solve(pushed.unsqueeze(2), torch.linalg.cholesky(blocks)).squeeze(2)
        return (weight + moved).masked_fill(~keep, 0.0)


def refitted(curvature: Curvature, keep: Tensor) -> Solution:
    """The weights of the whole layer, each block as :meth:`Curvature.refit` has it; weights in no block stay."""
    weight = curvature.problem.weight
    new = weight.clone(memory_format=torch.contiguous_format).reshape(-1)
    for part in curvature.layout.parts(NUMBERS) if not bool(keep.all()) else ():
        support = curvature.layout.gather(keep, part)
        curvature.layout.scatter(curvature.refit(part, support), part, new)
    return Solution(new.reshape(weight.shape).masked_fill(~keep, 0.0), keep)


def mean_square(problem: LayerProblem) -> float:
    """The mean square of all the samples' gradients, the mean diagonal of their second moments.

    Raises:
        CalibrationError: all gradients are zero.
    """
    samples = problem.stats[SampleGradients].samples
    total = sum(float(torch.linalg.vector_norm(row)) ** 2 for row in samples)  # float64 at once is slow
    if not total and samples.numel():
        raise CalibrationError(f"{problem.name}: expected gradients of the loss, got {len(samples)} that are all zero")
    return total / samples.numel() if total else 1.0


def _factors(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors, and which of them are wrong: of blocks that are singular up to rounding."""
    factors, info = torch.linalg.cholesky_ex(blocks)
    pivots = factors.diagonal(dim1=1, dim2=2).square().amin(dim=1)
    least = 1e-13 * blocks.shape[1] * blocks.diagonal(dim1=1, dim2=2).amax(dim=1)
    return factors, (info != 0) | ~(pivots > least)


class FromGradients(Curvature):
    """The empirical Fisher matrix ``1/n sum g g^T`` of the samples' gradients.

    Raises:
        CalibrationError: all gradients are zero.
    """

    def mean_diagonal(self) -> float:
        """See :meth:`Curvature.mean_diagonal`."""
        return mean_square(self.problem)

    def plain(self, part: slice) -> Tensor:
        """See :meth:`Curvature.plain`."""
        gradients = self.gradients(part)
        return torch.bmm(gradients.transpose(1, 2), gradients).div_(gradients.shape[1])

    def gradients(self, part: slice) -> Tensor:
        """The samples' gradients in blocks, ``(blocks of part, n, size)``."""
        samples = self.problem.stats[SampleGradients].samples
        index = self.layout.index[part]
        columns = samples.reshape(len(samples), -1).index_select(1, index.clamp(min=0).reshape(-1)).double()
        columns.masked_fill_((index < 0).reshape(1, -1), 0.0)
        return columns.reshape(len(samples), *index.shape).transpose(0, 1)


class FromInputs(Curvature):
    """The Hessian ``1/tokens sum x x^T`` of half the squared error of a layer's output; rows do not meet."""

    def mean_diagonal(self) -> float:
        """See :meth:`Curvature.mean_diagonal`."""
        gram = self.problem.stats[Gram]
        mean = float(gram.sum.diagonal(dim1=1, dim2=2).double().mean()) / gram.rows if gram.sum.numel() else 0.0
        return mean or 1.0

    def plain(self, part: slice) -> Tensor:
        """See :meth:`Curvature.plain`."""
        gram, shape = self.problem.stats[Gram], self.problem.weight.shape
        groups, columns = gram.sum.shape[0], math.prod(shape[1:])
        index = self.layout.index[part]
        row, column = index.clamp(min=0) // columns, index.clamp(min=0) % columns
        first = (row * groups // shape[0] * columns + column) * columns
        blocks = gram.sum.reshape(-1)[first.unsqueeze(2) + column.unsqueeze(1)].double().div_(gram.rows)
        there = index >= 0
        meet = (row.unsqueeze(2) == row.unsqueeze(1)) & there.unsqueeze(2) & there.unsqueeze(1)
        return blocks.masked_fill_(~meet, 0.0)
