"""Prune most what the model misses least, by trying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation, check_share
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.sensitivity import LEVELS, Curves, Judge, best_shares, scan
from sparsekit.pruning.solvers import Solver

Frozen = tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


@dataclass(frozen=True)
class Sensitivity(Allocation):
    """Prune every layer alone at several sparsities, and choose where the losses that this costs add up to least.

    See :func:`~sparsekit.pruning.sensitivity.sensitivity_scan` for the scan, whose pattern is that of the pruning, and
    :func:`~sparsekit.pruning.sensitivity.best_shares` for the choice.

    Args:
        method: what prunes in the scan.
        levels: the sparsities that are tried, in [0, 1); 0 and 1 are tried always.
        by: ``"loss"``, or the distance from the dense model's output, ``"mse"`` or ``"cosine"``; None is the loss where
            ``prune`` is given a loss function, or else ``"mse"``.
        minimum: smallest density of a layer, in [0, 1).
        curves: what a scan has found, ``{parameter: {sparsity: loss}}``; then nothing is scanned.

    Raises:
        PruningError: ``minimum`` is outside [0, 1), or a curve lacks the sparsities 0 and 1.

    Source: Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning Filters for Efficient ConvNets", prunes each layer alone
    to find how sensitive it is.
    """

    method: Criterion | Solver = Magnitude()  # noqa: RUF009 - frozen
    levels: tuple[float, ...] = LEVELS
    by: Judge | None = None
    minimum: float = 0.0
    curves: Curves | Frozen | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_share("minimum", self.minimum)
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.curves is None:
            return
        found = {name: dict(curve) for name, curve in dict(self.curves).items()}
        for name, curve in found.items():
            if not {0.0, 1.0} <= set(curve):
                raise PruningError(f"curves: expected the loss of {name} at sparsity 0 and 1, got {sorted(curve)}")
        object.__setattr__(self, "curves", tuple((name, tuple(curve.items())) for name, curve in found.items()))

    @property
    def needs_batches(self) -> bool:
        """Whether the scan is still to be done."""
        return self.curves is None

    def prepare(self, problem: ModelProblem) -> Sensitivity:
        """Scan the model, unless that is done; see :meth:`Allocation.prepare`."""
        curves = self.curves
        if curves is None:
            curves = scan(problem, self.method, self.levels, self.by)
        known = {name for name, _ in curves.items()} if isinstance(curves, Mapping) else {name for name, _ in curves}
        for target in problem.targets:
            if target.name not in known:
                raise PruningError(f"curves: expected one of every layer that is pruned, got none of {target.name}")
        return replace(self, curves=curves)

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the shares with the smallest sum of losses; see :meth:`Allocation.sparsities`."""
        if self.curves is None:
            raise PruningError(f"{self}: expected curves, which prepare() finds, got none")
        curves = {name: dict(curve) for name, curve in dict(self.curves).items()}
        sizes = {name: weight.numel() for name, weight in scores.items()}
        return best_shares(curves, sizes, check_sparsity(sparsity), self.minimum)
