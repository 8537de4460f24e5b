"""Remove what the inverse Fisher matrix says is cheap, and let the others make up for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution
from sparsekit.pruning.solvers.curvature import NUMBERS, FromGradients
from sparsekit.pruning.solvers.layout import consecutive
from sparsekit.pruning.statistics import Needs, SampleGradients


@dataclass(frozen=True)
class WoodFisher(RankingSolver):
    """``w_j^2 / (2 [F^-1]_jj)``, with ``F`` the damped empirical Fisher matrix in blocks of consecutive weights.

    ``F = damping * mean(diag) * I + 1/n sum g g^T`` over the samples' gradients ``g``. The others take the sum of what
    each removal alone would give them, ``-w_j / [F^-1]_jj * F^-1 e_j``, which is exact for one removal per block. The
    inverse is the one that Woodbury's recursion over the samples ends with, in closed form: that of ``F`` itself where
    a block is smaller than the number of samples, and else by the ``n x n`` matrix of the gradients' products.

    Args:
        damping: added to the diagonal, as a fraction of its mean over the layer; large ones end in magnitude.
        block_size: weights per block of ``F``.
        steps: rounds on the way to the sparsity, each with new gradients.

    Raises:
        PruningError: ``damping`` is negative, or ``block_size`` or ``steps`` smaller than 1.

    Source: Singh, Alistarh 2020, "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression".
    """

    damping: float = 0.1
    block_size: int = 64
    steps: int = 1
    needs: ClassVar[Needs] = (SampleGradients,)

    def __post_init__(self) -> None:
        if self.damping < 0 or self.block_size < 1 or self.steps < 1:
            raise PruningError(
                f"WoodFisher: expected damping >= 0, block_size >= 1 and steps >= 1, got {self.damping}, "
                f"{self.block_size} and {self.steps}"
            )

    @property
    def rounds(self) -> int:
        """:attr:`steps`."""
        return self.steps

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the rise of the loss if a weight goes alone; see :meth:`RankingSolver.score`."""
        scores = torch.zeros(problem.weight.numel(), dtype=torch.float64, device=problem.weight.device)
        for inverse in self._inverses(problem):
            weight = inverse.fisher.layout.gather(problem.weight, inverse.part).double()
            inverse.fisher.layout.scatter(weight.square() / (2 * inverse.diagonal), inverse.part, scores)
        return scores.reshape(problem.weight.shape)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        keep = self.choose(problem, self.score(problem))
        new = problem.weight.clone(memory_format=torch.contiguous_format).reshape(-1)
        for inverse in self._inverses(problem) if not bool(keep.all()) else ():
            layout = inverse.fisher.layout
            weight = layout.gather(problem.weight, inverse.part).double()
            gone = weight.masked_fill(layout.gather(keep, inverse.part), 0.0)
            layout.scatter(weight - inverse.times(gone / inverse.diagonal), inverse.part, new)
        return Solution(new.reshape(problem.weight.shape).masked_fill(~keep, 0.0), keep)

    def _inverses(self, problem: LayerProblem) -> Iterator[Inverse]:
        layout = consecutive(problem.weight.numel(), self.block_size, problem.weight.device)
        fisher = FromGradients(problem, layout, self.damping)
        samples = len(problem.stats[SampleGradients].samples)
        for part in layout.parts(NUMBERS * max(1, layout.size // samples)):
            yield (_Explicit if layout.size <= samples or not self.damping else _Woodbury)(fisher, part)


class _Explicit:
    """``F^-1`` of some blocks, as it is."""

    def __init__(self, fisher: FromGradients, part: slice) -> None:
        self.fisher, self.part = fisher, part
        self.matrix = torch.cholesky_inverse(fisher.damped(part)[1])
        self.diagonal = self.matrix.diagonal(dim1=1, dim2=2)

    def times(self, vectors: Tensor) -> Tensor:
        """``F^-1 v`` for each block's vector, ``(blocks, size)``."""
        return torch.bmm(self.matrix, vectors.unsqueeze(2)).squeeze(2)


class _Woodbury:
    """``F^-1 = (I - G^T (n * damping * I + G G^T)^-1 G) / damping`` of some blocks, ``(n, size)`` numbers each."""

    def __init__(self, fisher: FromGradients, part: slice) -> None:
        self.fisher, self.part = fisher, part
        gradients = fisher.gradients(part)
        self.damping = fisher.damping * fisher.scale
        products = torch.bmm(gradients, gradients.transpose(1, 2))
        products.diagonal(dim1=1, dim2=2).add_(gradients.shape[1] * self.damping)
        self.half = torch.linalg.solve_triangular(torch.linalg.cholesky(products), gradients, upper=False)
        self.diagonal = (1 - self.half.square().sum(dim=1)) / self.damping

    def times(self, vectors: Tensor) -> Tensor:
        """``F^-1 v`` for each block's vector, ``(blocks, size)``."""
        through = torch.bmm(self.half, vectors.unsqueeze(2))
        return (vectors - torch.bmm(self.half.transpose(1, 2), through).squeeze(2)) / self.damping


Inverse = _Explicit | _Woodbury
