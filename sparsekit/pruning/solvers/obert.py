"""Remove groups by the inverse Fisher matrix, small blocks of it at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution
from sparsekit.pruning.solvers.curvature import NUMBERS, FromGradients, refitted
from sparsekit.pruning.solvers.greedy import unit_costs
from sparsekit.pruning.solvers.layout import by_units
from sparsekit.pruning.statistics import Needs, SampleGradients


@dataclass(frozen=True)
class OBERT(RankingSolver):
    """``w_Q^T ([F^-1]_QQ)^-1 w_Q / 2`` per unit ``Q`` of the pattern, one weight or many; ``F`` in small blocks.

    ``F = damping * mean(diag) * I + 1/n sum g g^T`` over the samples' gradients ``g``, in blocks of consecutive units,
    none of which is cut: a unit larger than ``block_size`` is a block of its own. Within each block all removed weights
    are made up for jointly and exactly, where the source adds up what each unit's removal alone would ask for; the two
    are the same for one removal per block, and the joint one is never worse on ``F``.

    Args:
        damping: added to the diagonal, as a fraction of its mean over the layer; large ones end in magnitude.
        block_size: weights per block of ``F``, in whole units.
        steps: rounds on the way to the sparsity, each with new gradients.

    Raises:
        PruningError: ``damping`` is negative, or ``block_size`` or ``steps`` smaller than 1.

    Source: Kurtic et al. 2022, "The Optimal BERT Surgeon: Scalable and Accurate Second-Order Pruning for Large Language
    Models".
    """

    damping: float = 0.1
    block_size: int = 50
    steps: int = 1
    needs: ClassVar[Needs] = (SampleGradients,)

    def __post_init__(self) -> None:
        if self.damping < 0 or self.block_size < 1 or self.steps < 1:
            raise PruningError(
                f"OBERT: expected damping >= 0, block_size >= 1 and steps >= 1, got {self.damping}, "
                f"{self.block_size} and {self.steps}"
            )

    @property
    def rounds(self) -> int:
        """:attr:`steps`."""
        return self.steps

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the rise of the loss if a unit goes alone, shared out among its weights."""
        fisher = self._fisher(problem)
        layout = fisher.layout
        scores = torch.zeros(problem.weight.numel(), dtype=torch.float64, device=problem.weight.device)
        for part in layout.parts(NUMBERS):
            blocks, factors = fisher.damped(part)
            weight = layout.gather(problem.weight, part).double()
            if layout.units == 1:  # the unit is the block, and the inverse of the inverse is at hand
                costs = 0.5 * torch.einsum("bi,bij,bj->b", weight, blocks, weight).unsqueeze(1)
            else:
                costs = unit_costs(torch.cholesky_inverse(factors), weight, layout.width)
            layout.share(costs, part, scores)
        return scores.reshape(problem.weight.shape)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        keep = self.choose(problem, self.score(problem))
        return refitted(self._fisher(problem), keep)

    def _fisher(self, problem: LayerProblem) -> FromGradients:
        layout = by_units(problem.pattern, tuple(problem.weight.shape), self.block_size, problem.weight.device)
        return FromGradients(problem, layout, self.damping)
