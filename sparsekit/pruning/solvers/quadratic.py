"""A layer's loss to second order, from the samples' gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparsekit.pruning.solvers.base import LayerProblem
from sparsekit.pruning.solvers.curvature import NUMBERS, FromGradients
from sparsekit.pruning.solvers.layout import consecutive
from sparsekit.pruning.statistics import SampleGradients


class Quadratic(ABC):
    """``g^T d + 1/2 d^T H d`` with ``H = X^T X / n + damping * mean(diag) * I`` in blocks of consecutive weights.

    Vectors are ``(blocks, size)``, zero where there is no weight; in float32 for a float32 weight.

    Args:
        curvature: ``H``.
        first_order: whether ``g`` is the mean gradient instead of zero.
    """

    def __init__(self, curvature: FromGradients, *, first_order: bool) -> None:
        self.curvature = curvature
        self.layout = curvature.layout
        self.whole = slice(0, len(self.layout.index))
        self.weight = self.blocks(curvature.problem.weight)
        self.linear = torch.zeros_like(self.weight)
        if first_order:
            self.linear += self.blocks(curvature.problem.stats[SampleGradients].mean)
        self.diagonal = self.make()

    @staticmethod
    def of(problem: LayerProblem, damping: float, block_size: int, *, first_order: bool = False) -> Quadratic:
        """The loss by explicit blocks of ``H``, unless going over the gradients twice is less than over the blocks."""
        layout = consecutive(problem.weight.numel(), block_size, problem.weight.device)
        fits = layout.size <= 2 * len(problem.stats[SampleGradients].samples) or not damping
        return (_Explicit if fits else _LowRank)(FromGradients(problem, layout, damping), first_order=first_order)

    def blocks(self, values: Tensor) -> Tensor:
        """``values`` of the weight's shape in blocks."""
        return self.layout.gather(values, self.whole)

    def flat(self, values: Tensor) -> Tensor:
        """``values`` in blocks in the weight's shape."""
        shape = self.curvature.problem.weight.shape
        return values.reshape(-1)[: shape.numel()].reshape(shape)

    def value(self, delta: Tensor, product: Tensor) -> float:
        """The loss at ``delta``, with ``product = H delta``, summed in float64."""
        return float(((self.linear.double() + 0.5 * product.double()) * delta.double()).sum())

    @abstractmethod
    def make(self) -> Tensor:
        """Get ready, and return the diagonal of ``H``."""

    @abstractmethod
    def times(self, delta: Tensor) -> Tensor:
        """``H delta``."""

    def solve(self, delta: Tensor, keep: Tensor) -> Tensor:
        """The best change of weights that takes what is not in ``keep`` to zero, worked out in float64."""
        found = torch.empty_like(delta)
        for part in self.layout.parts(NUMBERS):
            support = keep[part]
            gone = self.weight[part].double().masked_fill(support, 0.0)
            found[part] = torch.where(support, self.solve_part(part, gone, support), -gone).to(found.dtype)
        return found

    @abstractmethod
    def solve_part(self, part: slice, gone: Tensor, keep: Tensor) -> Tensor:
        """``H_KK^-1 (H_KS w_S - g_K)`` of some blocks, with ``gone`` the weights ``w_S``."""


class _Explicit(Quadratic):
    """Every block of ``H`` in memory."""

    def make(self) -> Tensor:
        self.matrix = self.weight.new_empty(*self.weight.shape, self.layout.size)
        for part in self.layout.parts(NUMBERS):
            self.matrix[part] = self.curvature.damped(part)[0].to(self.matrix.dtype)
        return self.matrix.diagonal(dim1=1, dim2=2)

    def times(self, delta: Tensor) -> Tensor:
        return torch.bmm(self.matrix, delta.unsqueeze(2)).squeeze(2)

    def solve_part(self, part: slice, gone: Tensor, keep: Tensor) -> Tensor:
        matrix, _ = self.curvature.damped(part)
        right = torch.bmm(matrix, gone.unsqueeze(2)).squeeze(2) - self.linear[part].double()
        matrix.masked_fill_(~(keep.unsqueeze(1) & keep.unsqueeze(2)), 0.0)
        matrix.diagonal(dim1=1, dim2=2).masked_fill_(~keep, self.curvature.scale)
        right = right.masked_fill(~keep, 0.0).unsqueeze(2)
        return torch.cholesky_solve(right, torch.linalg.cholesky(matrix)).squeeze(2)


class _LowRank(Quadratic):
    """The gradients alone, which are fewer numbers than blocks of ``H``."""

    def make(self) -> Tensor:
        samples = self.curvature.problem.stats[SampleGradients].samples
        self.count = len(samples)
        self.damping = self.curvature.damping * self.curvature.scale
        flat = samples.reshape(self.count, -1)
        gap = self.weight.numel() - flat.shape[1]
        full = torch.nn.functional.pad(flat, (0, gap)) if gap else flat
        self.gradients = full.reshape(self.count, *self.weight.shape).transpose(0, 1)  # (blocks, n, size), no copy
        diagonal = torch.full_like(self.weight, self.damping)
        for row in self.gradients.unbind(1):
            diagonal.addcmul_(row, row, value=1 / self.count)
        return diagonal

    def times(self, delta: Tensor) -> Tensor:
        product = self.damping * delta
        for row in self.gradients.unbind(1):  # a product with the strided whole is several times slower
            product.addcmul_(row, (row * delta).sum(dim=1, keepdim=True), value=1 / self.count)
        return product

    def solve_part(self, part: slice, gone: Tensor, keep: Tensor) -> Tensor:
        gradients = self.gradients[part].double()
        through = torch.bmm(gradients, gone.unsqueeze(2)) / self.count
        kept = gradients.masked_fill(~keep.unsqueeze(1), 0.0)
        right = torch.bmm(kept.transpose(1, 2), through) - self.linear[part].double().unsqueeze(2)
        products = torch.bmm(kept, kept.transpose(1, 2))
        products.diagonal(dim1=1, dim2=2).add_(self.count * self.damping)
        inner = torch.cholesky_solve(torch.bmm(kept, right), torch.linalg.cholesky(products))
        return (right - torch.bmm(kept.transpose(1, 2), inner)).squeeze(2) / self.damping
