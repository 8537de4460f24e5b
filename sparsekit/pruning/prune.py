"""Prune a model once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.patterns.base import as_matrix, removed
from sparsekit.pruning.allocation import Allocation, Uniform
from sparsekit.pruning.calibration import calibrate, survey
from sparsekit.pruning.criteria import Criterion
from sparsekit.pruning.solvers import LayerProblem, Solver
from sparsekit.pruning.statistics import LayerStatistics
from sparsekit.pruning.targets import Choice, Target, find_targets

LOG = logging.getLogger("sparsekit")

Method = Criterion | Solver


@torch.no_grad()
def prune(  # noqa: PLR0913 - the one call of the package
    model: nn.Module,
    method: Method,
    pattern: Pattern = Unstructured(),  # noqa: B008 - frozen
    sparsity: float | None = None,
    *,
    allocation: Allocation = Uniform(),  # noqa: B008 - frozen
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    layers: Choice = None,
    progress: bool = False,
) -> dict[str, Mask]:
    """Prune ``model`` in place, and return the masks by parameter name.

    Removed weights are exactly zero; kept ones stay bit for bit with a criterion and are solved for by a solver. On
    any error the model is as it was.

    Args:
        model: any module; parameters keep their identity and dtype. Tied weights are pruned once.
        method: a criterion (``Magnitude()``) or a solver (``SparseGPT()``).
        pattern: the legal sets of kept weights.
        sparsity: fraction of zeros, in [0, 1); None where the pattern fixes it.
        allocation: how layers share the budget.
        batches: iterable of what ``model(...)`` takes: tensor, tuple (positional) or mapping (keywords). Read where
            the method needs statistics, through :func:`~sparsekit.pruning.calibration.calibrate`.
        loss_fn: ``loss_fn(model, batch)``, a scalar, for methods that need gradients; the others ignore it.
        layers: ``(name, module) -> bool`` over every Linear and Conv2d, or names of layers; None takes them all.
        progress: show a progress bar.

    Raises:
        PatternError: the sparsity is outside [0, 1) or contradicts the pattern.
        LayerError: no layer matches, a name is unknown, or a weight cannot be pruned.
        PruningError: the method, pattern and allocation do not go together.
        CalibrationError: batches are needed and missing or empty, the model refuses them, or they miss a layer.
    """
    _check_combination(method, pattern, allocation)
    fraction = pattern.sparsity(sparsity)
    targets = find_targets(model, layers)
    data = _materialise(batches, method)
    with _undoing() as write, Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task(f"pruning {len(targets)} layers", total=len(targets))
        ranked = _rank(model, targets, method, data) if allocation.compares_scores else {}
        shares = _shares(targets, pattern, fraction, allocation, ranked)
        masks: dict[str, Mask] = {}

        def visit(target: Target, stats: LayerStatistics) -> None:
            scores = ranked.get(target.name)
            weight, keep = _pruned(target, method, stats, pattern, shares[target.name], scores)
            masks[target.name] = Mask(keep, pattern)
            write(target.weight, weight.masked_fill(~keep, 0.0))
            bar.advance(task)

        if method.needs and not ranked:
            calibrate(model, targets, data, method.needs, visit)
        else:
            for target in targets:
                visit(target, LayerStatistics(target.name))
    ordered = {target.name: masks[target.name] for target in targets}
    _report(ordered, shares)
    return ordered


def _check_combination(method: object, pattern: object, allocation: object) -> None:
    """Raise :class:`PruningError` where the three are not what they should be, or make no sense together."""
    for word, value, kinds in (
        ("method", method, (Criterion, Solver)),
        ("pattern", pattern, (Pattern,)),
        ("allocation", allocation, (Allocation,)),
    ):
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            hint = f"; write {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kinds) else ""
            raise PruningError(f"{word}: expected a {wanted}, got {value!r}{hint}")
    assert isinstance(pattern, Pattern)
    assert isinstance(allocation, Allocation)
    if pattern.fixes_sparsity and not isinstance(allocation, Uniform):
        raise PruningError(f"{pattern} fixes the sparsity of every layer, so {allocation} has nothing to share out")
    if not allocation.compares_scores:
        return
    if not isinstance(method, Criterion):
        raise PruningError(f"{allocation} ranks scores across layers, and {method} is a solver, which has none")
    if method.by_row:
        raise PruningError(f"{allocation} ranks scores across layers, and those of {method} compare within a row only")


def _materialise(batches: Iterable[Any] | None, method: Method) -> list[Any]:
    """The batches as a list, where the method needs any."""
    if not method.needs:
        return []
    wanted = f"{method} needs batches of what the model takes"
    if batches is None:
        raise CalibrationError(f"batches: {wanted}, got None")
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise CalibrationError(f"batches: {wanted}, in a list or another iterable, got one {type(batches).__name__}")
    data = list(batches)
    if not data:
        raise CalibrationError(f"batches: {wanted}, got an empty {type(batches).__name__}")
    return data


@contextmanager
def _undoing() -> Iterator[Callable[[nn.Parameter, Tensor], None]]:
    """Give a function that writes into parameters; if the block fails, every parameter gets its old values back."""
    before: list[tuple[nn.Parameter, Tensor]] = []

    def write(parameter: nn.Parameter, value: Tensor) -> None:
        before.append((parameter, parameter.detach().clone()))
        parameter.copy_(value)

    try:
        yield write
    except BaseException:
        for parameter, value in before:
            parameter.copy_(value)
        raise


def _rank(model: nn.Module, targets: list[Target], method: Method, data: list[Any]) -> dict[str, Tensor]:
    """The scores of all layers, from the model as it is."""
    assert isinstance(method, Criterion)
    stats = survey(model, targets, data, method.needs) if method.needs else {}
    return {
        target.name: _scored(target, method, stats.get(target.name, LayerStatistics(target.name))) for target in targets
    }


def _shares(
    targets: list[Target], pattern: Pattern, fraction: float, allocation: Allocation, ranked: dict[str, Tensor]
) -> dict[str, float]:
    """Each layer's sparsity."""
    if ranked:
        return allocation.sparsities({name: pattern.pool(as_matrix(s)) for name, s in ranked.items()}, fraction)
    return allocation.sparsities({target.name: target.weight for target in targets}, fraction)


def _wide(weight: Tensor) -> Tensor:
    """``weight`` in float32, or as it is in float64."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _scored(target: Target, method: Criterion, stats: LayerStatistics) -> Tensor:
    """The scores of one layer, finite."""
    scores = method.score(_wide(target.weight), stats)
    bad = scores.numel() - int(torch.isfinite(scores).sum())
    if bad or scores.shape != target.weight.shape:
        raise PruningError(
            f"{target.name}: expected finite scores of shape {tuple(target.weight.shape)} from {method}, "
            f"got shape {tuple(scores.shape)} with {bad} NaN or infinite"
        )
    return scores


def _selected(scores: Tensor, pattern: Pattern, share: float, *, by_row: bool) -> Tensor:
    """The pattern's choice; a share of 1, which only a global budget gives, removes every unit."""
    if share < 1.0 or pattern.fixes_sparsity:
        return pattern.select(scores, share, by_row=by_row)
    high, wide = pattern.grid(tuple(scores.shape))
    return pattern.choose(scores, high * wide)


def _pruned(
    target: Target,
    method: Method,
    stats: LayerStatistics,
    pattern: Pattern,
    share: float,
    scores: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The new weight of one layer, in its parameter's dtype, and what stays; ``scores`` where they are known."""
    if isinstance(method, Criterion):
        known = _scored(target, method, stats) if scores is None else scores
        return target.weight, _selected(known, pattern, share, by_row=method.by_row)
    solution = method.solve(LayerProblem(target.name, _wide(target.weight), stats, pattern, share))
    weight = solution.weight.to(target.weight.dtype)
    if not bool(torch.isfinite(weight).all()):
        raise PruningError(f"{target.name}: expected finite weights from {method}, got NaN or infinite ones")
    return weight, solution.keep


def _report(masks: Mapping[str, Mask], shares: Mapping[str, float]) -> None:
    """Log what the pattern could not cover, and layers that lost nothing or everything."""
    for name, mask in masks.items():
        high, wide = mask.pattern.grid(tuple(mask.shape))
        units = high * wide
        if mask.remainder:
            LOG.info("%s %s: %s", name, tuple(mask.shape), mask.remainder)
        if mask.keep.numel() and not units:
            LOG.warning("%s %s: no whole unit of %s fits, so it stays dense", name, tuple(mask.shape), mask.pattern)
        elif units and removed(shares[name], units) == units:
            LOG.warning("%s %s: loses every unit of %s", name, tuple(mask.shape), mask.pattern)
