"""All that a method works on while a model trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.pruning.allocations import Allocation
from sparsekit.pruning.criteria import Criterion
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.selection import selected
from sparsekit.pruning.statistics import LossFunction, Target
from sparsekit.pruning.surveying import surveyed
from sparsekit.training.history import Series
from sparsekit.training.site import Site

Scores = Mapping[str, Tensor]


@dataclass(eq=False)
class State:
    """The weights, the budget, the step, and what a method remembers beside them.

    Args:
        model: the module that names the parameters, without the wrappers of ``torch.compile`` and DDP.
        optimizer: the user's.
        sites: one per pruned parameter, in the order of the model.
        pattern: what every mask obeys.
        sparsity: fraction of all units that are to go; None where the pattern fixes it or the method learns it.
        steps: optimizer steps of the whole run.
        allocation: how the sites share the budget.
        batches, loss_fn: for criteria that need statistics.
        generator: random numbers of the run; on the CPU, and the same on every rank.
        step: finished optimizer steps; while a step is under way, its index.
        numbers, tensors: what a method remembers, JSON types and tensors; saved and restored with the run.
        notes: what goes into the next row of the history.
        gate_optimizer: learns the gates of a method that has some.
        guests: what a method keeps beside that as long as the run prunes, such as hooks on the model; never saved.
    """

    model: nn.Module
    optimizer: Optimizer
    sites: tuple[Site, ...]
    pattern: Pattern
    sparsity: float | None
    steps: int
    allocation: Allocation
    batches: Sequence[Any]
    loss_fn: LossFunction | None
    generator: torch.Generator
    step: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Series] = field(default_factory=dict)
    gate_optimizer: Optimizer | None = None
    guests: dict[str, Any] = field(default_factory=dict, repr=False)

    def note(self, name: str, value: float | Mapping[str, float]) -> None:
        """Put a number, or one per layer, into the next row of the history."""
        self.notes[name] = dict(value) if isinstance(value, Mapping) else {"all": float(value)}

    def choose(self, scores: Scores, sparsity: float | None, by_row: bool = False) -> dict[str, Tensor]:
        """Return what stays of each site at ``sparsity``, the allocation's shares of it, and the pattern's rules.

        Args:
            scores: finite, of each weight's shape, by parameter name, higher = keep.
            sparsity: fraction of all units that go, in [0, 1]; ignored where the pattern fixes it.
            by_row: compare scores within a row only.
        """
        pattern = self.pattern
        if pattern.fixes_sparsity:
            return {name: pattern.select(values, None) for name, values in scores.items()}
        assert sparsity is not None
        shares = self.shares(scores, sparsity)
        return {name: selected(values, pattern, shares[name], by_row) for name, values in scores.items()}

    def shares(self, scores: Scores, sparsity: float) -> dict[str, float]:
        """Return each layer's sparsity, in [0, 1], at ``sparsity`` of all."""
        if sparsity >= 1.0:
            return dict.fromkeys(scores, 1.0)
        if self.allocation.compares_scores:
            return self.allocation.sparsities({n: self.pattern.pool(v) for n, v in scores.items()}, sparsity)
        return self.allocation.sparsities(scores, sparsity)

    def hold(self, keeps: Mapping[str, Tensor]) -> None:
        """Hold the masks ``keeps``, by parameter name."""
        for site in self.sites:
            if site.name in keeps:
                site.hold(keeps[site.name], self.optimizer)

    def magnitudes(self) -> dict[str, Tensor]:
        """Return ``|w|`` of each site."""
        return {site.name: site.read().abs() for site in self.sites}

    def scores(self, criterion: Criterion, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the scores of ``criterion`` for the model as it is.

        Args:
            criterion: what scores.
            weights: what is scored, by parameter name, in place of what the model holds; statistics are the model's.

        Raises:
            CalibrationError: the criterion needs batches or a loss function, and there are none that do.
        """
        needs = criterion.statistics()
        problem = replace(self.problem(), sparsity=self.sparsity or 0.0)
        found = {}
        with torch.enable_grad():
            for target, stats in surveyed(problem, needs):
                weight = whole_of(self.sites, target) if weights is None else weights[target.name]
                found[target.name] = criterion.score(at_least_float32(weight), stats)
        return {site.name: found[site.name].detach() for site in self.sites}

    def problem(self) -> ModelProblem:
        """Return the model as ``prune`` sees it."""
        targets = [Target(site.name, site.weight, site.layers) for site in self.sites]
        return ModelProblem(self.model, targets, self.batches, self.loss_fn, self.pattern, self.sparsity or 0.0)

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw from (0, 1), of ``shape``, with the dtype and device of ``like``: the same on every rank."""
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return drawn.clamp_(1e-12, 1 - 1e-12).to(like.device, like.dtype)

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw from the standard normal, of ``shape``, with the dtype and device of ``like``; as :meth:`uniform`."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(like.device, like.dtype)


def whole_of(sites: Iterable[Site], target: Target) -> Tensor:
    """Return the weight of ``target``, without a gradient."""
    return next(site for site in sites if site.name == target.name).read()


def at_least_float32(weight: Tensor) -> Tensor:
    """Return ``weight`` in float32, or wider where it is."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def check_positive(**numbers: float) -> None:
    """Raise :class:`PruningError` unless each argument is above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise PruningError(f"{name}: expected a number above 0, got {value!r}")


def check_fraction(**numbers: float) -> None:
    """Raise :class:`PruningError` unless each argument is in [0, 1]."""
    for name, value in numbers.items():
        if not 0 <= value <= 1:
            raise PruningError(f"{name}: expected a fraction in [0, 1], got {value!r}")
