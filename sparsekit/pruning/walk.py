"""Go through the layers of a model, and prune each by a criterion or a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.mask import Mask
from sparsekit.pruning.allocations import Allocation
from sparsekit.pruning.calibration import calibrate
from sparsekit.pruning.criteria import Criterion
from sparsekit.pruning.searches import ModelProblem, Search
from sparsekit.pruning.selection import selected
from sparsekit.pruning.solvers import LayerProblem, RankingSolver, Solver
from sparsekit.pruning.statistics import LayerStatistics, Needs, Target
from sparsekit.pruning.surveying import split, surveyed

Write = Callable[[nn.Parameter, Tensor], None]
Method = Criterion | Solver


def search(problem: ModelProblem, method: Search, write: Write) -> dict[str, Mask]:
    """Prune the whole model by a search; masks by parameter name."""
    if reason := method.refuses(problem):
        raise PruningError(f"{method} {reason}")
    solutions = method.search(problem)
    masks = {target.name: Mask(solutions[target.name].keep, problem.pattern) for target in problem.targets}
    for target in problem.targets:
        weight = _finite(target.name, solutions[target.name].weight.to(target.weight.dtype), method)
        write(target.weight, weight.masked_fill(~masks[target.name].keep, 0.0))
    return masks


def walk(
    problem: ModelProblem, method: Method, allocation: Allocation, write: Write, advance: Callable[[], None]
) -> dict[str, Mask]:
    """Prune by a criterion or a solver, in as many rounds as it wants; masks by parameter name.

    Args:
        problem: the model and the budget.
        method: what scores or solves.
        allocation: how layers share the budget.
        write: changes a parameter.
        advance: called once per finished layer of the last round.
    """
    allocation = allocation.prepare(problem)
    rounds = 1 if problem.pattern.fixes_sparsity else method.rounds
    state = _Round(problem, method, allocation, write)
    for number in range(1, rounds + 1):
        fraction = 1.0 - (1.0 - problem.sparsity) ** (number / rounds) if number < rounds else problem.sparsity
        state.run(fraction, advance if number == rounds else lambda: None)
    return {target.name: state.masks[target.name] for target in problem.targets}


class _Round:
    """One pass over all layers, and what the passes before it left: masks, and dense weights for those that revive."""

    def __init__(self, problem: ModelProblem, method: Method, allocation: Allocation, write: Write) -> None:
        self.problem, self.method, self.allocation, self.write = problem, method, allocation, write
        self.patterns = {target.name: problem.pattern_of(target.name) for target in problem.targets}
        self.masks: dict[str, Mask] = {}
        self.told = False  # whether any score of this round differs from zero
        revives = isinstance(method, Criterion) and method.revives
        self.dense = {target.name: target.weight.detach().clone() for target in problem.targets} if revives else {}

    def run(self, fraction: float, advance: Callable[[], None]) -> None:
        """Bring the model to ``fraction``, calling ``advance`` after each layer."""
        self.told = False
        needs = self.method.statistics()
        ranked = self._rank(needs) if self.allocation.compares_scores or self.problem.groups else {}
        shares = self._shares(ranked, fraction)
        together = self._together(ranked, shares)
        later: list[tuple[nn.Parameter, Tensor]] = []

        def visit(target: Target, stats: LayerStatistics) -> None:
            if target.name in together:
                weight, keep = self.dense.get(target.name, target.weight), together[target.name]
            else:
                weight, keep = self._pruned(target, stats, shares[target.name], ranked.get(target.name))
            self.masks[target.name] = Mask(keep, self.patterns[target.name])
            pruned = weight.masked_fill(~keep, 0.0)
            if changes_model:
                self.write(target.weight, pruned)
            else:
                later.append((target.weight, pruned))
            advance()

        scored = bool(ranked) and isinstance(self.method, Criterion)
        inputs, whole = split(() if scored else needs)
        changes_model = not whole  # statistics of the whole model are of the model before the round
        if inputs and not whole:
            calibrate(self.problem, inputs, visit)
        else:
            for target, stats in surveyed(self.problem, (*inputs, *whole)):
                visit(target, stats)
        self._expect_a_difference(needs)
        for parameter, value in later:
            self.write(parameter, value)

    def _expect_a_difference(self, needs: Needs) -> None:
        """Raise :class:`CalibrationError` where data tell nothing about the model: a mask would be arbitrary."""
        asks_model = any(kind.needs_batches for kind in split(needs)[1])
        if asks_model and isinstance(self.method, Criterion) and not self.told:
            raise CalibrationError(
                f"{self.method}: expected scores that tell weights apart, got zeros in every layer: neither output nor "
                f"loss depends on any weight of the model as it is"
            )

    def _rank(self, needs: Needs) -> dict[str, Tensor]:
        """The scores of all layers, from the model as it is."""
        return {target.name: self._scored(target, stats) for target, stats in surveyed(self.problem, needs)}

    def _shares(self, ranked: Mapping[str, Tensor], fraction: float) -> dict[str, float]:
        """Each layer's sparsity; a group has one, and counts as one layer where scores are compared."""
        if self.problem.pattern.fixes_sparsity:
            return {t.name: self.problem.pattern.sparsity(None, tuple(t.weight.shape)) for t in self.problem.targets}
        groups = self.problem.groups
        if not self.allocation.compares_scores:
            shares = self.allocation.sparsities({t.name: t.weight for t in self.problem.targets}, fraction)
            means = {group: sum(shares[name] for name in group.names) / len(group.names) for group in groups}
            return {**shares, **{name: mean for group, mean in means.items() for name in group.names}}
        coupled = {name for group in groups for name in group.names}
        units = {name: self.patterns[name].pool(s) for name, s in ranked.items() if name not in coupled}
        units.update({group.names[0]: group.units(ranked) for group in groups})
        shares = self.allocation.sparsities(units, fraction)
        return {**shares, **{name: shares[group.names[0]] for group in groups for name in group.names}}

    def _together(self, ranked: Mapping[str, Tensor], shares: Mapping[str, float]) -> dict[str, Tensor]:
        """What stays of the weights that are in a group."""
        found = {}
        for group in self.problem.groups:
            assert isinstance(self.method, Criterion)
            units, leader = group.units(ranked), group.names[0]
            share = self.method.share(leader, units, shares[leader])
            found.update(group.choose(units, share, {name: ranked[name].shape for name in group.names}))
        return found

    def _scored(self, target: Target, stats: LayerStatistics) -> Tensor:
        """The scores of one layer: finite, but minus infinity for what went in an earlier round for good."""
        weight = _wide(self.dense.get(target.name, target.weight))
        if isinstance(self.method, Criterion):
            scores = self.method.score(weight, stats)
        else:
            assert isinstance(self.method, RankingSolver)
            pattern = self.patterns[target.name]
            scores = self.method.score(LayerProblem(target.name, weight, stats, pattern, self.problem.sparsity))
        bad = scores.numel() - int(torch.isfinite(scores).sum())
        if bad or scores.shape != target.weight.shape:
            raise PruningError(
                f"{target.name}: expected finite scores of shape {tuple(target.weight.shape)} from {self.method}, "
                f"got shape {tuple(scores.shape)} with {bad} NaN or infinite"
            )
        self.told = self.told or bool(scores.any())
        before = None if self.dense else self.masks.get(target.name)
        return scores if before is None else scores.masked_fill(~before.keep, -torch.inf)

    def _pruned(
        self, target: Target, stats: LayerStatistics, share: float, scores: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The new weight of one layer, in its parameter's dtype, and what stays; ``scores`` where they are known."""
        pattern = self.patterns[target.name]
        if isinstance(self.method, Criterion):
            known = self._scored(target, stats) if scores is None else scores
            share = self.method.share(target.name, pattern.pool(known), share)
            return self.dense.get(target.name, target.weight), selected(known, pattern, share, self.method.by_row)
        solution = self.method.solve(LayerProblem(target.name, _wide(target.weight), stats, pattern, share))
        return _finite(target.name, solution.weight.to(target.weight.dtype), self.method), solution.keep


def _wide(weight: Tensor) -> Tensor:
    """``weight`` in float32, or as it is in float64."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _finite(name: str, weight: Tensor, method: Method | Search) -> Tensor:
    """``weight``, or an error that names who made it."""
    if not bool(torch.isfinite(weight).all()):
        raise PruningError(f"{name}: expected finite weights from {method}, got NaN or infinite ones")
    return weight
