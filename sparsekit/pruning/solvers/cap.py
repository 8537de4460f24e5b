"""Remove one by one inside small blocks, and rank the removals of all blocks by the loss that they lead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Pattern
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution
from sparsekit.pruning.solvers.curvature import Curvature, FromGradients, FromInputs, refitted
from sparsekit.pruning.solvers.greedy import CACHED, Limit, remove_all
from sparsekit.pruning.solvers.layout import by_units
from sparsekit.pruning.statistics import Gram, Needs, SampleGradients

HESSIANS = ("gradients", "inputs")


@dataclass(frozen=True)
class CAP(RankingSolver):
    """The loss of a block of ``F`` when a unit goes, in the order of an exact greedy search inside each block.

    In each block the cheapest unit goes, the others make up for it exactly, and so on until none is left. A unit's
    score is the loss of the block right after its removal, so the lowest scores of all blocks are what the searches
    removed first, as far as one threshold lets them. The weights are those that the searches have at that point; they
    follow from what is left alone, so no trace of them is kept. Blocks hold consecutive units of the pattern, none of
    which is cut. With N:M the search inside a block removes no more of a group than may go.

    Args:
        hessian: "gradients" takes ``1/n sum g g^T`` over the samples' gradients; "inputs" takes the second moments of
            the layer's inputs, so that no loss is needed, layer by layer behind the pruned ones.
        damping: added to the diagonal of ``F``, as a fraction of its mean over the layer.
        block_size: weights per block, in whole units.
        steps: rounds on the way to the sparsity, each with a new ``F``.

    Raises:
        PruningError: ``hessian`` is unknown, ``damping`` negative, or ``block_size`` or ``steps`` smaller than 1.

    Source: Kuznedelev et al. 2023, "CAP: Correlation-Aware Pruning for Highly-Accurate Sparse Vision Models".
    """

    hessian: str = "gradients"
    damping: float = 0.1
    block_size: int = 64
    steps: int = 1

    def __post_init__(self) -> None:
        if self.hessian not in HESSIANS:
            raise PruningError(f"CAP: expected hessian to be one of {', '.join(HESSIANS)}, got {self.hessian!r}")
        if self.damping < 0 or self.block_size < 1 or self.steps < 1:
            raise PruningError(
                f"CAP: expected damping >= 0, block_size >= 1 and steps >= 1, got {self.damping}, "
                f"{self.block_size} and {self.steps}"
            )

    @property
    def rounds(self) -> int:
        """:attr:`steps`."""
        return self.steps

    def statistics(self) -> Needs:
        """Return what :attr:`hessian` is made of."""
        return (SampleGradients,) if self.hessian == "gradients" else (Gram,)

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the loss of the block right after a unit's removal, shared out among its weights."""
        curvature = self._curvature(problem)
        layout, limit = curvature.layout, limit_of(problem.pattern)
        scores = torch.zeros(problem.weight.numel(), dtype=torch.float64, device=problem.weight.device)
        for part in layout.parts(CACHED):
            blocks, factors = curvature.damped(part)
            weight = layout.gather(problem.weight, part).double()
            if layout.units == 1:  # the unit is the block, and the inverse of the inverse is at hand
                costs = 0.5 * torch.einsum("bi,bij,bj->b", weight, blocks, weight).unsqueeze(1)
            else:
                costs = remove_all(torch.cholesky_inverse(factors), weight, layout, limit).total()
            layout.share(costs, part, scores)
        return scores.reshape(problem.weight.shape)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        keep = self.choose(problem, self.score(problem))
        return refitted(self._curvature(problem), keep)

    def _curvature(self, problem: LayerProblem) -> Curvature:
        layout = by_units(problem.pattern, tuple(problem.weight.shape), self.block_size, problem.weight.device)
        kind = FromGradients if self.hessian == "gradients" else FromInputs
        return kind(problem, layout, self.damping)


def limit_of(pattern: Pattern) -> Limit:
    """How many of the neighbouring units ``pattern`` lets go: without a limit, unless it is N:M."""
    return Limit(pattern.m, pattern.m - pattern.n) if isinstance(pattern, NM) else Limit()
