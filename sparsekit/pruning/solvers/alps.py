"""Let mask and weights be found together, by the alternating direction method of multipliers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import removed
from sparsekit.pruning.solvers.base import LayerProblem, Solution, Solver
from sparsekit.pruning.solvers.normal_equations import (
    NormalEquations,
    Targets,
    as_weight,
    check_options,
    needs_of,
    normal_equations,
)
from sparsekit.pruning.statistics import Needs

EVERY = 3
"""Iterations between two looks at how much the support still changes."""
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""Factors of the penalty, each for a change of the support above the fraction before it."""
TINY, RESTARTS, LOWER = 0.02, 4, 5.0
"""Where less than this fraction of the support changes at the first look, the penalty is too strong: it is divided by
the last number and everything starts again, so many times at most."""


@dataclass(frozen=True)
class ALPS(Solver):
    """Minimise ``||Y - W X||^2`` under the mask's count by ADMM, then by least squares on the support.

    With columns scaled so that ``H`` has a diagonal of 1: ``B = (W H - V + rho D) (H + rho I)^-1``, ``D`` is ``B + V /
    rho`` projected onto the pattern, and ``V += rho (B - D)``. The penalty ``rho`` grows by 1.3, 1.2 or 1.1, the slower
    the less the support changes, until it no longer does. One eigendecomposition of ``H`` serves all iterations.

    Args:
        damping: pulls each weight towards the dense one, as a fraction of the mean second moment of the inputs.
        rho: the penalty to start with.
        iterations: of ADMM, at most.
        steps: of conjugate gradients on the support, at most.
        targets: ``"layer"`` reproduces the outputs of the dense weight on the inputs from the layers pruned before it,
            ``"dense"`` those of the dense model, so that it also makes up for the layers before, and ``"residual"``
            for the stream that a residual branch is added to as well.

    Raises:
        PruningError: an option is out of its range.

    Source: Meng, Behdin, Wang, Mazumder 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
    Language Models"; where a penalty that is too strong makes a restart is chosen here.
    """

    damping: float = 0.01
    rho: float = 0.1
    iterations: int = 300
    steps: int = 10
    targets: Targets = "layer"

    def __post_init__(self) -> None:
        check_options(self, self.damping, self.targets)
        if not self.rho > 0 or self.iterations < 1 or self.steps < 0:
            raise PruningError(
                f"ALPS: expected rho > 0, iterations >= 1 and steps >= 0, got {self.rho}, {self.iterations} and "
                f"{self.steps}"
            )

    def statistics(self) -> Needs:
        """Return the second moments of the inputs, with what ``targets`` take of the dense model."""
        return needs_of(self.targets)

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`."""
        pattern = problem.pattern
        high, wide = pattern.grid(tuple(problem.weight.shape))
        if not pattern.fixes_sparsity and not removed(problem.sparsity, high * wide):
            return Solution(problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool))
        equations = normal_equations(problem, self.damping, self.targets)
        scale = equations.hessian.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)
        hessian = equations.hessian / (scale * scale.transpose(1, 2))
        scaled = NormalEquations(hessian, equations.goal / scale, equations.dense * scale)
        weight, keep = self._split(scaled, problem)
        refined = equations.refined(weight / scale, keep, self.steps)
        return Solution(as_weight(refined, problem), keep.reshape(problem.weight.shape))

    def _split(self, scaled: NormalEquations, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        """Run ADMM; return the scaled weight on the support, and the support, both ``(groups, rows, n)``."""
        values, vectors = torch.linalg.eigh(scaled.hessian)
        rho = self.rho
        for attempt in range(RESTARTS + 1):
            state = Splitting(scaled, problem, values, vectors, rho)
            for iteration in range(self.iterations):
                state.advance()
                if (iteration + 1) % EVERY:
                    continue
                changed = state.changed()
                if iteration + 1 == EVERY and attempt < RESTARTS and changed <= TINY:
                    rho /= LOWER
                    break
                if changed == 0:
                    return state.kept, state.keep
                state.rho *= next(factor for above, factor in GROWTH if changed > above)
            else:
                return state.kept, state.keep
        return state.kept, state.keep


class Splitting:
    """The iteration of ADMM: ``free`` (B), ``kept`` (D, zero outside ``keep``) and ``price`` (V).

    Args:
        equations: scaled to a diagonal of 1.
        problem: whose pattern projects.
        values, vectors: of the scaled ``H``.
        rho: the penalty.
    """

    def __init__(
        self, equations: NormalEquations, problem: LayerProblem, values: Tensor, vectors: Tensor, rho: float
    ) -> None:
        self.equations, self.problem, self.values, self.vectors = equations, problem, values, vectors
        self.rho = rho
        self.free = equations.dense
        self.price = torch.zeros_like(self.free)
        self.keep = self._project(self.free)
        self.kept = self.free * self.keep
        self.before = self.keep

    def advance(self) -> None:
        """Do one iteration."""
        right = self.equations.goal - self.price + self.rho * self.kept
        self.free = (right @ self.vectors / (self.values + self.rho).unsqueeze(1)) @ self.vectors.transpose(1, 2)
        wanted = self.free + self.price / self.rho
        self.keep = self._project(wanted)
        self.kept = wanted * self.keep
        self.price = self.price + self.rho * (self.free - self.kept)

    def changed(self) -> float:
        """Return which fraction of the support is new since this was asked last."""
        new = int((self.keep & ~self.before).sum())
        self.before = self.keep
        return new / max(1, int(self.keep.sum()))

    def _project(self, weight: Tensor) -> Tensor:
        pattern, shape = self.problem.pattern, tuple(self.problem.weight.shape)
        high, wide = pattern.grid(shape)
        gone = removed(self.problem.sparsity, high * wide)
        return pattern.choose(weight.square().reshape(shape), gone).reshape(weight.shape)
