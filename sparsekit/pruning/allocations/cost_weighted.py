"""Spend the budget where a zero saves most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation, check_share
from sparsekit.pruning.budget import check_minimum, fit
from sparsekit.pruning.calibration import count_rows
from sparsekit.pruning.problem import ModelProblem

Costs = Mapping[str, float] | tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class CostWeighted(Allocation):
    """A sparsity of the cost: units go by what they are worth per cost, until that fraction of all cost is saved.

    A unit costs its share of what its layer costs dense. Where scores compare across layers, units are ranked by score
    per cost, and the lowest go as long as they cost no more than ``sparsity`` of the total: of all choices that save as
    much, the one with the smallest sum of scores. Where a method has no such scores, density is in proportion to
    1 / cost per weight: that minimises the sum of ``-log(density)`` over all weights. With equal costs per weight the
    two are :class:`Global` and :class:`Uniform`.

    Args:
        costs: of each whole dense layer, by parameter name, in any unit (``sparsekit.planning.layer_costs`` measures
            them); None counts floating-point operations on the batches.
        minimum: smallest density of a layer, in [0, 1).
        by_score: rank by score per cost where that is possible; False always goes by the costs alone.

    Raises:
        PruningError: a cost is not a positive number, or ``minimum`` is outside [0, 1).

    Source: Dantzig 1957, "Discrete-Variable Extremum Problems", for the ranking by worth per cost.
    """

    costs: Costs | None = None
    minimum: float = 0.0
    by_score: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        check_share("minimum", self.minimum)
        if self.costs is None:
            return
        items = tuple(self.costs.items() if isinstance(self.costs, Mapping) else self.costs)
        for name, cost in items:
            if not isinstance(cost, (int, float)) or not 0 < cost < math.inf:
                raise PruningError(f"CostWeighted: expected a positive cost of {name}, got {cost!r}")
        object.__setattr__(self, "costs", items)

    @property
    def compares_scores(self) -> bool:  # type: ignore[override]
        """Whether units are ranked by score per cost."""
        return self.by_score

    @property
    def needs_batches(self) -> bool:
        """Whether operations are still to be counted."""
        return self.costs is None

    def without_scores(self) -> CostWeighted:
        """Return the allocation that goes by the costs alone."""
        return replace(self, by_score=False)

    def prepare(self, problem: ModelProblem) -> CostWeighted:
        """Count the operations of each layer, unless its cost is known; see :meth:`Allocation.prepare`."""
        if self.costs is None:
            rows = count_rows(problem)
            return replace(self, costs={t.name: 2.0 * rows[t.name] * t.weight.numel() or 1.0 for t in problem.targets})
        known = dict(self.costs)
        for target in problem.targets:
            if target.name not in known:
                raise PruningError(f"CostWeighted: expected a cost of every layer, got none of {target.name}")
        return self

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return shares that save ``sparsity`` of the cost; see :meth:`Allocation.sparsities`."""
        if self.costs is None:
            raise PruningError(f"{self}: expected costs, which prepare() finds, got none")
        fraction, costs = check_sparsity(sparsity), dict(self.costs)
        sizes = {name: units.numel() for name, units in scores.items()}
        each = {name: costs[name] / size for name, size in sizes.items() if size}
        if self.by_score:
            return self._ranked(scores, each, fraction)
        totals = {name: costs[name] if sizes[name] else 0.0 for name in sizes}
        kept = (1.0 - fraction) * math.fsum(totals.values())
        slope = {name: 1.0 / cost for name, cost in each.items()}
        densities = fit(dict.fromkeys(each, 0.0), slope, totals, kept, self.minimum)
        return {name: 1.0 - density for name, density in densities.items()}

    def _ranked(self, scores: Mapping[str, Tensor], each: Mapping[str, float], fraction: float) -> dict[str, float]:
        """Rank all units by score per cost, and let the lowest go while they fit into the budget."""
        if not each:
            return dict.fromkeys(scores, 0.0)
        check_minimum(self.minimum, 1.0 - fraction)
        device = scores[next(iter(each))].device
        values, costs, owners = [], [], []
        for owner, (name, cost) in enumerate(each.items()):
            units = scores[name].reshape(-1).to(device, torch.float64).sort(stable=True).values
            units = units[: math.floor((1.0 - self.minimum) * units.numel() + 1e-9)]  # the others are protected
            values.append(units / cost)
            costs.append(torch.full_like(units, cost))
            owners.append(torch.full_like(units, owner, dtype=torch.long))
        order = torch.cat(values).flip(0).sort(stable=True).indices  # flipped: of equals, the later layer goes first
        spent = torch.cat(costs).flip(0)[order].cumsum(0)
        budget = fraction * math.fsum(cost * scores[name].numel() for name, cost in each.items())
        gone = torch.cat(owners).flip(0)[order][spent <= budget * (1 + 1e-9)].bincount(minlength=len(each))
        counts = dict(zip(each, gone.tolist()))
        return {name: counts[name] / units.numel() if units.numel() else 0.0 for name, units in scores.items()}
