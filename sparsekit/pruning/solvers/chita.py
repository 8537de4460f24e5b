"""Choose and solve a layer's weights together, as a sparse regression on the samples' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution
from sparsekit.pruning.solvers.curvature import mean_square
from sparsekit.pruning.solvers.quadratic import Quadratic
from sparsekit.pruning.statistics import Needs, SampleGradients

HALVINGS = 8
"""Step sizes that are tried before the search is over."""
INNER = 3
"""Steps on a fixed support after each change of it."""
ENOUGH = 1e-4
"""Share of the loss that a change of the support, or a cycle, has to save for another one."""


@dataclass(frozen=True)
class CHITA(RankingSolver):
    """Minimise ``1/2 ||X w - X b||^2 + n lambda/2 ||b - w||^2`` over weights ``b`` with the pattern's zeros.

    ``X`` holds the samples' gradients, one per row, in blocks of consecutive weights that do not meet. It starts from
    what ``[H]_jj w_j^2`` keeps, and iterates: a step against the gradient, scaled per weight by the diagonal of ``H =
    X^T X / n + lambda I``; the pattern keeps what costs most by the same diagonal; the step is halved until the loss
    falls, after some steps on the new support alone with exact line search. Once the support has settled, its weights
    are solved for exactly, and the search goes on from there. The loss never rises. Where a
    block has more weights than there are samples, all is done by ``X`` itself and Woodbury's identity. The scaling by
    the diagonal, the line search and the score that allocations see are this package's own.

    Args:
        damping: ``lambda``, as a fraction of the mean diagonal of ``X^T X / n`` over the layer; large ones end in
            magnitude.
        block_size: weights per block.
        first_order: add ``n * g^T (b - w)`` with the mean gradient ``g``, for models that are not at a minimum.
        iterations: changes of the support per cycle, at most.
        cycles: searches, each ended by an exact solution, at most.
        steps: rounds on the way to the sparsity, each with new gradients.

    Raises:
        PruningError: ``damping`` is negative, or one of the counts is smaller than 1.

    Source: Benbaki et al. 2023, "Fast as CHITA: Neural Network Pruning with Combinatorial Optimization".
    """

    damping: float = 0.1
    block_size: int = 64
    first_order: bool = False
    iterations: int = 10
    cycles: int = 2
    steps: int = 1
    needs: ClassVar[Needs] = (SampleGradients,)

    def __post_init__(self) -> None:
        counts = (self.block_size, self.iterations, self.cycles, self.steps)
        if self.damping < 0 or min(counts) < 1:
            raise PruningError(
                f"CHITA: expected damping >= 0 and block_size, iterations, cycles and steps >= 1, got {self.damping} "
                f"and {', '.join(map(str, counts))}"
            )

    @property
    def rounds(self) -> int:
        """:attr:`steps`."""
        return self.steps

    def score(self, problem: LayerProblem) -> Tensor:
        """Return ``[H]_jj w_j^2 / 2``, by which the search starts; see :meth:`RankingSolver.score`."""
        samples = problem.stats[SampleGradients].samples
        squares = torch.zeros_like(problem.weight)
        for gradient in samples:
            squares.addcmul_(gradient, gradient, value=1 / len(samples))
        return 0.5 * (squares + self.damping * mean_square(problem)) * problem.weight.square()

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        search = Descent(self, problem, self._loss(problem))
        search.run()
        keep = search.loss.flat(search.keep)
        new = problem.weight + search.loss.flat(search.delta).to(problem.weight.dtype)
        return Solution(new.masked_fill(~keep, 0.0), keep)

    def _loss(self, problem: LayerProblem) -> Quadratic:
        return Quadratic.of(problem, self.damping, self.block_size, first_order=self.first_order)


class Descent:
    """The search: ``delta`` is what is added to the weights, ``keep`` the support, ``values`` all losses on the way.

    Args:
        method: how far it goes.
        problem: the layer.
        loss: of ``delta``.
    """

    def __init__(self, method: CHITA, problem: LayerProblem, loss: Quadratic) -> None:
        self.method, self.problem, self.loss = method, problem, loss
        self.keep = self._choice(loss.weight)
        self._go((-loss.weight).masked_fill(self.keep, 0.0))
        self.values = [self.value]
        self.step = 1.0

    def run(self) -> None:
        """Search, solve on the support, and search again from there."""
        for _ in range(self.method.cycles):
            before = self.value
            for _ in range(self.method.iterations):
                if not self._change():
                    break
            self._go(self.loss.solve(self.delta, self.keep))
            self.values.append(self.value)
            if before - self.value <= ENOUGH * abs(before):
                break

    def _go(self, delta: Tensor) -> None:
        self.delta = delta
        self.product = self.loss.times(delta)

    @property
    def value(self) -> float:
        """The loss at ``delta``."""
        return self.loss.value(self.delta, self.product)

    def _choice(self, weight: Tensor) -> Tensor:
        scores = self.loss.flat(self.loss.diagonal * weight.square())
        return self.loss.blocks(self.method.choose(self.problem, scores))

    def _change(self) -> bool:
        """Take a step that changes the support, and some on the new one; whether the loss fell enough."""
        old, kept, value = (self.delta, self.product), self.keep, self.value
        slope = (self.product + self.loss.linear) / self.loss.diagonal
        for _ in range(HALVINGS):
            target = self.loss.weight + old[0] - self.step * slope
            self.keep = self._choice(target)
            if torch.equal(self.keep, kept):
                break
            self._go(torch.where(self.keep, target - self.loss.weight, -self.loss.weight))
            for _ in range(INNER):
                self._descend()
            if (found := self.value) < value:
                self.step = min(1.0, 2 * self.step)
                self.values.append(found)
                return value - found > ENOUGH * abs(value)
            self.step /= 2
        (self.delta, self.product), self.keep = old, kept
        return False

    def _descend(self) -> None:
        """Take the best step against the scaled gradient on the support."""
        slope = (self.product + self.loss.linear).masked_fill(~self.keep, 0.0)
        direction = slope / self.loss.diagonal
        product = self.loss.times(direction)
        curvature = float((direction * product).sum())
        if curvature > 0.0:
            size = float((direction * slope).sum()) / curvature
            self.delta, self.product = self.delta - size * direction, self.product - size * product
