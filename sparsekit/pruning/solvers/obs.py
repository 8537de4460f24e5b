"""Remove the cheapest weight of a layer, let all others make up for it exactly, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution
from sparsekit.pruning.solvers.cap import HESSIANS, limit_of
from sparsekit.pruning.solvers.curvature import Curvature, FromGradients, FromInputs, refitted
from sparsekit.pruning.solvers.greedy import remove_all
from sparsekit.pruning.solvers.layout import by_rows
from sparsekit.pruning.statistics import Gram, Needs, SampleGradients

LARGEST = 1024
"""Weights that one matrix is inverted for: the cost of each goes with the third power."""
NUMBERS = 1 << 19
"""Entries of the inverses that are in work at a time."""


@dataclass(frozen=True)
class OBS(RankingSolver):
    """``w_j^2 / (2 [H^-1]_jj)`` goes where it is lowest; the others get ``-w_j / [H^-1]_jj * H^-1 e_j``; and again.

    ``H`` is exact and whole, and each removal takes its row and column out of the inverse. The weights that are left
    are the least squares solution on their support. Units of many weights go by ``w_Q^T ([H^-1]_QQ)^-1 w_Q / 2``, and
    of an N:M group no more than may go.

    Args:
        hessian: "inputs" takes the second moments of the layer's inputs, the exact Hessian of half the squared error of
            its output; the rows share it, and rows that no unit ties together are solved apart. No loss is needed.
            "gradients" takes ``1/n sum g g^T`` over the samples' gradients, one matrix for all weights of a layer.
        damping: added to the diagonal of ``H``, as a fraction of its mean.

    Raises:
        PruningError: ``hessian`` is unknown or ``damping`` negative; when it runs, more than 1024 weights share a
            matrix (of a row, of rows that units tie together, or with "gradients" of the layer).

    Source: Hassibi, Stork 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon"; Frantar,
    Alistarh 2022, "Optimal Brain Compression", for the search by rows.
    """

    hessian: str = "inputs"
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.hessian not in HESSIANS or self.damping < 0:
            raise PruningError(
                f"OBS: expected hessian to be one of {', '.join(HESSIANS)} and damping >= 0, got {self.hessian!r} and "
                f"{self.damping}"
            )

    def statistics(self) -> Needs:
        """Return what :attr:`hessian` is made of."""
        return (SampleGradients,) if self.hessian == "gradients" else (Gram,)

    def score(self, problem: LayerProblem) -> Tensor:
        """Return how far the loss had to rise in one step until a unit went, shared out among its weights."""
        curvature = self._curvature(problem)
        layout, limit = curvature.layout, limit_of(problem.pattern)
        scores = torch.zeros(problem.weight.numel(), dtype=torch.float64, device=problem.weight.device)
        for part in layout.parts(NUMBERS):
            inverse = torch.cholesky_inverse(curvature.damped(part)[1])
            removals = remove_all(inverse, layout.gather(problem.weight, part).double(), layout, limit)
            layout.share(removals.highest(), part, scores)
        return scores.reshape(problem.weight.shape)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        keep = self.choose(problem, self.score(problem))
        return refitted(self._curvature(problem), keep)

    def _curvature(self, problem: LayerProblem) -> Curvature:
        whole, shape = self.hessian == "gradients", tuple(problem.weight.shape)
        layout = by_rows(problem.pattern, shape, problem.weight.device, whole=whole)
        if layout.size > LARGEST:
            what = "in a layer" if whole else "in a row, or in rows that units tie together"
            raise PruningError(
                f"{problem.name}: expected at most {LARGEST} weights {what} for {self}, whose cost goes with their "
                f"third power, got {layout.size} in {shape}; CAP does the same in small blocks"
            )
        return (FromGradients if whole else FromInputs)(problem, layout, self.damping)
