"""One group for what a skip connection joins, and its variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Filter, Pattern
from sparsekit.pruning.groups import Group, check_groups
from sparsekit.training.base import TrainingMethod
from sparsekit.training.penalties.norms import root, small, squares, unit_size
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.state import State, check_fraction, check_positive


@dataclass(frozen=True)
class VACL(TrainingMethod):
    """Adds the norm and the variance of cross-layer groups: the i-th filters of all layers that are added together.

    What is added per cross-layer group ``g``, of ``n`` weights: ``strength * sqrt(n) * (||g|| + variance * sqrt(n) *
    Var(g))``, where ``Var(g)`` is the mean squared distance of the group's weights from their mean; a group of equal
    values has none. The members of a group go together, also in the end.

    That there are such groups, and that both a first and a second statistic of them are penalised, is the paper's; how
    the two are weighted could not be verified, so this is a variant of it.

    Args:
        strength: of the whole term.
        variance: of the variance beside the norm, at least 0.
        groups: the weights whose units are joined, as :func:`~sparsekit.pruning.coupled` finds them for the run's
            pattern. A layer in none is a group of its own.
        threshold: without a sparsity, units go whose norm is at most that share of the largest of their group, in
            [0, 1], but never all of them.

    Raises:
        PruningError: an argument is out of its range, or groups do not fit the model or the run's pattern.

    Source: Gao, Liu, Chien, Zheng 2019, "VACL: Variance-Aware Cross-Layer Regularization for Pruning Deep Residual
    Networks", in the variant described above.
    """

    strength: float = 2e-3
    variance: float = 1.0
    groups: tuple[Group, ...] = ()
    threshold: float = 0.05
    default_pattern: ClassVar[Pattern] = Filter()
    has_penalty: ClassVar[bool] = True
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(strength=self.strength)
        check_fraction(threshold=self.threshold)
        if not self.variance >= 0:
            raise PruningError(f"variance: expected at least 0, got {self.variance!r}")

    def check(self, state: State) -> None:
        """Raise where groups do not fit the model or the pattern."""
        check_groups(self.groups, state.problem().targets)
        for group in self.groups:
            for name, pattern in group.members:
                if pattern != state.pattern:
                    raise PruningError(f"groups: expected {name} with the run's {state.pattern}, got {pattern}")

    def together(self, state: State) -> tuple[Group, ...]:
        """Return all groups, with one for each layer that is in none."""
        joined = {name for group in self.groups for name in group.names}
        alone = (Group(((site.name, site.pattern),)) for site in state.sites if site.name not in joined)
        return (*self.groups, *alone)

    def penalty(self, state: State) -> Tensor:
        """Return the sum over all groups of norm and variance."""
        values = {site.name: wide(site.value()) for site in state.sites}
        costs = [self.cost(group, state.pattern, values) for group in self.together(state)]
        return torch.stack(costs).sum()

    def cost(self, group: Group, pattern: Pattern, values: dict[str, Tensor]) -> Tensor:
        """Return the term of one set of joined weights, a differentiable scalar."""
        size = sum(unit_size(pattern, tuple(values[name].shape)) for name in group.names)
        second = torch.stack([squares(pattern, values[name]) for name in group.names]).sum(dim=0)
        total = root(second).sum() * math.sqrt(size)
        if self.variance and size > 1:
            first = torch.stack([pattern.pool(values[name]).reshape(-1) for name in group.names]).sum(dim=0)
            total = total + self.variance * (second - first.square() / size).sum()
        return self.strength * total

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return squares: a unit's score is its squared norm, and a group's the sum of those of its members."""
        return {site.name: wide(site.read()).double().square() for site in state.sites}

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what stays: the same units of all members of a group."""
        scores = self.scores(state)
        if state.pattern.fixes_sparsity:
            return state.choose(scores, None)
        groups = self.together(state)
        units = {group: group.units(scores) for group in groups}
        shapes = {name: values.shape for name, values in scores.items()}
        shares = self._shares(state, units)
        found: dict[str, Tensor] = {}
        for group in groups:
            found.update(group.choose(units[group], shares[group], shapes))
        return {site.name: found[site.name] for site in state.sites}

    def _shares(self, state: State, units: dict[Group, Tensor]) -> dict[Group, float]:
        """Return what share of each group goes: by threshold, or as the allocation says; a group counts as a layer."""
        if state.sparsity is None:
            return {group: self._below(values) / max(1, values.numel()) for group, values in units.items()}
        if state.allocation.compares_scores:
            shares = state.allocation.sparsities({group.names[0]: v for group, v in units.items()}, state.sparsity)
            return {group: shares[group.names[0]] for group in units}
        shares = state.allocation.sparsities({site.name: site.weight for site in state.sites}, state.sparsity)
        return {group: sum(shares[name] for name in group.names) / len(group.names) for group in units}

    def _below(self, units: Tensor) -> int:
        """Count the units whose norm is below the threshold; not all of them."""
        norms = root(units.reshape(-1))
        return small(norms, self.threshold * float(norms.max())) if norms.numel() else 0
