"""How much worse a model gets when one layer alone is pruned, and what to prune where, going by that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sparsekit.batches import call_model, describe, tensors_in
from sparsekit.errors import CalibrationError, PruningError
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.budget import check_minimum
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.pruning.losses import SampledOutput
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.replay import Replay
from sparsekit.pruning.solvers import LayerProblem, Solver
from sparsekit.pruning.statistics import LayerStatistics, LossFunction, Target
from sparsekit.pruning.surveying import ROOM, surveyed
from sparsekit.pruning.targets import Choice, find_targets
from sparsekit.pruning.watching import watched_eval, watching

LEVELS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Curves = Mapping[str, Mapping[float, float]]
Judge = Literal["loss", "mse", "cosine"]
Run = Callable[[Callable[[Any], Any], int, Any], Any]


def sensitivity_scan(  # noqa: PLR0913 - a call of the package, like prune
    model: nn.Module,
    method: Criterion | Solver = Magnitude(),  # noqa: B008 - frozen
    pattern: Pattern = Unstructured(),  # noqa: B008 - frozen
    levels: Sequence[float] = LEVELS,
    *,
    batches: Iterable[Any],
    loss_fn: LossFunction | None = None,
    by: Judge | None = None,
    layers: Choice = None,
) -> dict[str, dict[float, float]]:
    """Prune every layer alone at several sparsities, and return ``{parameter: {sparsity: loss}}``.

    Each curve starts with the dense model at sparsity 0 and ends with the whole layer gone at 1. The model stays as it
    was.

    Args:
        model: any module; it runs in eval mode.
        method: what prunes; a solver may move the layer's weights. Statistics are those of the dense model.
        pattern: the legal sets of kept weights.
        levels: sparsities in [0, 1) besides 0 and 1.
        batches: of what the loss function takes, or else the model.
        loss_fn: ``loss_fn(model, batch)``, a scalar.
        by: ``"loss"``: the mean of ``loss_fn`` over the batches. Without labels, the distance from the dense model's
            output: the squared one relative to its square (``"mse"``), or 1 minus the mean cosine along its last
            dimension (``"cosine"``). None is the loss where there is a loss function with a meaning, or else
            ``"mse"``.
        layers: which are scanned; as for :func:`~sparsekit.pruning.prune.prune`.

    Raises:
        CalibrationError: there are no batches, the model or the loss function refuses one, or a loss is not finite.
        PruningError: the pattern fixes its own sparsity, or a level is outside [0, 1).
    """
    problem = ModelProblem(model, find_targets(model, layers), list(batches), loss_fn, pattern)
    with torch.no_grad():
        return scan(problem, method, levels, by)


def scan(
    problem: ModelProblem, method: Criterion | Solver, levels: Sequence[float], by: Judge | None
) -> dict[str, dict[float, float]]:
    """Scan the targets of ``problem``; see :func:`sensitivity_scan`."""
    if problem.pattern.fixes_sparsity:
        raise PruningError(f"{problem.pattern} fixes the sparsity of every layer, so there is nothing to scan")
    for level in levels:
        if not 0.0 <= level < 1.0:
            raise PruningError(f"levels: expected sparsities in [0, 1), got {level!r}")
    if not problem.batches:
        raise CalibrationError("batches: a sensitivity scan needs batches of what the model takes, got none")
    tried = sorted({*map(float, levels), 1.0} - {0.0})
    called: set[str] = set()
    weights = [target.weight for target in problem.targets]
    with watched_eval(problem.model):
        with watching(problem.targets, lambda target, *_: called.add(target.name)):
            jury = _Jury(problem, by)
            dense = jury.loss(_directly)
        found: dict[str, dict[float, float]] = {}
        for part in _portions(problem):
            ways = list(surveyed(part, method.statistics()))
            for used_by_layer in (True, False):  # a replay does not see a weight that is used without its layer
                memory = Replay(problem.model, weights) if used_by_layer else nullcontext()
                with memory as replay:
                    for target, stats in ways:
                        if (target.name in called) == used_by_layer:
                            run = _directly if replay is None else partial(replay.run, [target.weight])
                            pruned = _pruned(problem, method, target, stats)
                            found[target.name] = {0.0: dense} | _curve(target, tried, pruned, partial(jury.loss, run))
    return {target.name: found[target.name] for target in problem.targets}


def best_shares(curves: Curves, sizes: Mapping[str, int], sparsity: float, minimum: float = 0.0) -> dict[str, float]:
    """Return the sparsity of each layer that minimises the sum of losses, ``sparsity`` overall.

    Losses are taken to add up, and each curve is replaced by its lower convex hull, linear between its corners. Then
    the cheapest stretches are taken first, and that is optimal; stretches of equal cost are taken in equal parts.

    Args:
        curves: loss by sparsity of each layer, with 0 and 1 among the sparsities.
        sizes: weights of each layer.
        sparsity: of all weights together.
        minimum: smallest density of a layer.

    Raises:
        PruningError: ``minimum`` is more than the budget leaves.
    """
    check_minimum(minimum, 1.0 - sparsity)
    stretches: dict[float, list[tuple[str, float]]] = {}
    for name, size in sizes.items():
        for (start, loss), (stop, next_loss) in pairwise(_hull(curves[name]) if size else []):
            width = min(stop, 1.0 - minimum) - start
            if width > 0:
                slope = (next_loss - loss) / ((stop - start) * size)
                stretches.setdefault(slope, []).append((name, width))
    left = sparsity * sum(sizes.values())
    shares = dict.fromkeys(sizes, 0.0)
    for slope in sorted(stretches):
        weight = math.fsum(width * sizes[name] for name, width in stretches[slope])
        part = min(1.0, max(0.0, left) / weight)
        for name, width in stretches[slope]:
            shares[name] += part * width
        left -= part * weight
    return {name: min(1.0, share) for name, share in shares.items()}


def _hull(curve: Mapping[float, float]) -> list[tuple[float, float]]:
    """The corners of the lower convex hull of a curve."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(curve.items()):
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            corners.pop()
        corners.append((x, y))
    return corners


def _directly(forward: Callable[[Any], Any], index: int, batch: Any) -> Any:
    return forward(batch)


class _Jury:
    """What a pruned model is judged by."""

    def __init__(self, problem: ModelProblem, by: Judge | None) -> None:
        if by not in (None, "loss", "mse", "cosine"):
            raise PruningError(f"by: expected None, 'loss', 'mse' or 'cosine', got {by!r}")
        self.problem = problem
        unlabelled = problem.loss_fn is None or isinstance(problem.loss_fn, SampledOutput)
        self.by = by or ("mse" if unlabelled else "loss")
        if self.by == "loss" and problem.loss_fn is None:
            raise CalibrationError("loss_fn: a sensitivity scan by loss needs loss_fn(model, batch), got None")
        if self.by == "loss" and unlabelled:
            raise PruningError("a sensitivity scan compares losses, and the value of SampledOutput says nothing")
        count = 0 if self.by == "loss" else len(problem.batches)
        self.wanted = [self._output(self._run(_directly, index), index) for index in range(count)]

    def loss(self, run: Run) -> float:
        """The mean over the batches, each run through ``run(forward, index, batch)``."""
        values = [self._value(self._run(run, index), index) for index in range(len(self.problem.batches))]
        mean = sum(values) / len(values)
        if not math.isfinite(mean):
            raise CalibrationError(f"expected a finite {self.by} in a sensitivity scan, got {mean}")
        return mean

    def _run(self, run: Run, index: int) -> Any:
        batch, problem = self.problem.batches[index], self.problem
        forward = problem.run if self.by == "loss" else partial(call_model, problem.model)
        try:
            return run(forward, index, batch)
        except Exception as error:
            raise CalibrationError(
                f"batches[{index}]: expected what the model takes, got {describe(batch)}, and it raised "
                f"{type(error).__name__}: {error}"
            ) from error

    def _value(self, returned: Any, index: int) -> float:
        if self.by == "loss":
            if not isinstance(returned, Tensor) or returned.numel() != 1:
                raise CalibrationError(f"loss_fn: expected a scalar, got {describe(returned)} for batches[{index}]")
            return float(returned)
        output, wanted = self._output(returned, index), self.wanted[index]
        if self.by == "cosine":
            return float(1.0 - cosine_similarity(output, wanted, dim=-1).mean())
        return float((output - wanted).square().sum() / wanted.square().sum().clamp(min=torch.finfo(wanted.dtype).tiny))

    def _output(self, returned: Any, index: int) -> Tensor:
        """The first tensor of floats that the model returns, without padded tokens."""
        output = next((value for value in tensors_in(returned) if value.is_floating_point()), None)
        if output is None:
            raise CalibrationError(f"expected a model that returns a tensor of floats, got {describe(returned)}")
        batch = self.problem.batches[index]
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(mask, Tensor) and output.dim() > 2 and mask.shape == output.shape[:2]:
            output = output[mask.to(output.device, torch.bool)]
        return output.double()


def _curve(
    target: Target, tried: Sequence[float], pruned: Callable[[float], Tensor], judge: Callable[[], float]
) -> dict[float, float]:
    """The loss at each sparsity of ``tried``; the weight itself is put back."""
    before = target.weight.detach().clone()
    found = {}
    try:
        for sparsity in tried:
            target.weight.copy_(pruned(sparsity))
            found[sparsity] = judge()
    finally:
        target.weight.copy_(before)
    return found


def _pruned(
    problem: ModelProblem, method: Criterion | Solver, target: Target, stats: LayerStatistics
) -> Callable[[float], Tensor]:
    """Return the function that gives the target's weight at a sparsity."""
    weight = target.weight.detach().clone().to(torch.promote_types(target.weight.dtype, torch.float32))
    scores = method.score(weight, stats) if isinstance(method, Criterion) else None

    def at(sparsity: float) -> Tensor:
        if sparsity == 1.0:
            return torch.zeros_like(weight)
        if isinstance(method, Criterion):
            assert scores is not None
            return weight.masked_fill(~problem.pattern.select(scores, sparsity, by_row=method.by_row), 0.0)
        solution = method.solve(LayerProblem(target.name, weight, stats, problem.pattern, sparsity))
        return solution.weight.masked_fill(~solution.keep, 0.0)

    return at


def _portions(problem: ModelProblem) -> Iterator[ModelProblem]:
    """Cut the targets into runs whose second moments, the largest statistics, find room together."""
    portion: list[Target] = []
    taken = 0
    for target in problem.targets:
        size = 4 * target.weight[:1].numel() ** 2
        if portion and taken + size > ROOM:
            yield replace(problem, targets=portion)
            portion, taken = [], 0
        portion.append(target)
        taken += size
    yield replace(problem, targets=portion)
