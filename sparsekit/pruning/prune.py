"""Prune a model once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from sparsekit.errors import CalibrationError, PatternError, PruningError
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.allocations import Allocation, Uniform
from sparsekit.pruning.criteria import Criterion
from sparsekit.pruning.groups import Group, check_groups
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.searches import Search
from sparsekit.pruning.solvers import RankingSolver, Solver
from sparsekit.pruning.statistics import LossFunction, ModelStatistic, Target
from sparsekit.pruning.targets import Choice, find_targets
from sparsekit.pruning.walk import Write, search, walk

LOG = logging.getLogger("sparsekit")

Method = Criterion | Solver | Search


@torch.no_grad()
def prune(  # noqa: PLR0913 - the one call of the package
    model: nn.Module,
    method: Method,
    pattern: Pattern = Unstructured(),  # noqa: B008 - frozen
    sparsity: float | None = None,
    *,
    allocation: Allocation = Uniform(),  # noqa: B008 - frozen
    batches: Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    layers: Choice = None,
    groups: Sequence[Group] = (),
    progress: bool = False,
) -> dict[str, Mask]:
    """Prune ``model`` in place, and return the masks by parameter name.

    Removed weights are exactly zero; kept ones stay bit for bit with a criterion and are solved for by a solver. On
    any error the model is as it was.

    Args:
        model: any module; parameters keep their identity and dtype. Tied weights are pruned once.
        method: a criterion (``Magnitude()``), a solver (``SparseGPT()``) or a search (``AMC()``).
        pattern: the legal sets of kept weights.
        sparsity: fraction of zeros, in [0, 1); None where the pattern, the method or the allocation sets it.
        allocation: how layers share the budget.
        batches: iterable of what ``model(...)`` takes: tensor, tuple (positional) or mapping (keywords). Read where
            the method or the allocation needs statistics, through :func:`~sparsekit.pruning.calibration.calibrate`.
        loss_fn: ``loss_fn(model, batch)``, a scalar, the mean over the batch's samples, for methods that need
            gradients or a reward; the others ignore it.
        layers: ``(name, module) -> bool`` over every Linear and Conv2d, or names of layers; None takes them all.
        groups: weights whose units go together, as :func:`~sparsekit.pruning.coupled` finds them: the scores of their
            units are summed, and a group shares one sparsity. Needs a criterion that ranks whole layers.
        progress: show a progress bar.

    Raises:
        PatternError: the sparsity is outside [0, 1) or contradicts the pattern, or the pattern refuses a layer.
        LayerError: no layer matches, a name is unknown, or a weight cannot be pruned.
        PruningError: the method, pattern and allocation do not go together.
        CalibrationError: batches or a loss function are needed and missing, the model refuses a batch, or a layer is
            missed.
    """
    sharing = _check_combination(method, pattern, allocation)
    targets = find_targets(model, layers)
    _check_grouping(method, groups, targets)
    data = materialise(batches, method, sharing)
    check_loss(method, loss_fn)
    budget = sharing.budget(sparsity, {target.name: target.weight.numel() for target in targets})
    fraction = _fraction(method, pattern, budget, targets)
    for target in targets:
        if isinstance(method, Solver) and (reason := method.refuses(pattern, tuple(target.weight.shape))):
            raise PruningError(f"{target.name}: {method} {reason}")
    problem = ModelProblem(model, targets, data, loss_fn, pattern, fraction, budget is None, tuple(groups))
    console = Console(stderr=True)
    hidden = not (progress and console.is_terminal)
    with undoing() as write, Progress(console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task(f"pruning {len(targets)} layers", total=len(targets))
        if isinstance(method, Search):
            masks = search(problem, method, write)
        else:
            masks = walk(problem, method, sharing, write, lambda: bar.advance(task))
    _report(masks)
    return masks


def _check_combination(method: object, pattern: object, allocation: object) -> Allocation:
    """Return what shares out the budget, or raise :class:`PruningError` where the three make no sense together."""
    for word, value, kinds in (
        ("method", method, (Criterion, Solver, Search)),
        ("pattern", pattern, (Pattern,)),
        ("allocation", allocation, (Allocation,)),
    ):
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            hint = f"; write {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kinds) else ""
            if word == "method" and hasattr(value, "before_step"):
                hint = "; methods that prune while a model trains go to sk.attach"
            article = "an" if word == "allocation" else "a"
            raise PruningError(f"{word}: expected {article} {wanted}, got {value!r}{hint}")
    assert isinstance(pattern, Pattern)
    assert isinstance(allocation, Allocation)
    shared = allocation != Uniform()
    if pattern.fixes_sparsity and shared:
        raise PruningError(f"{pattern} fixes the sparsity of every layer, so {allocation} has nothing to share out")
    if isinstance(method, Search) and shared:
        raise PruningError(f"{method} finds the sparsity of every layer, so {allocation} has nothing to share out")
    assert isinstance(method, (Criterion, Solver, Search))
    reason = _why_not_ranked(method)
    sharing = allocation if reason is None else allocation.without_scores()
    if sharing is None:
        raise PruningError(f"{allocation} ranks scores across layers, and {reason}")
    return sharing


def _check_grouping(method: Method, groups: Sequence[Group], targets: Sequence[Target]) -> None:
    """Raise :class:`PruningError` unless ``method`` has scores that can be summed over each of ``groups``."""
    if not groups:
        return
    if isinstance(method, (Solver, Search)):
        raise PruningError(
            f"groups: {method} is a {'solver' if isinstance(method, Solver) else 'search'}, and sums of "
            f"scores need a criterion"
        )
    if reason := _why_not_ranked(method):
        raise PruningError(f"groups: scores are summed over layers, and {reason}")
    check_groups(groups, targets)


def _why_not_ranked(method: Method) -> str | None:
    """Why the scores of ``method`` cannot be compared across layers, as half a sentence; None where they can."""
    if isinstance(method, Solver) and not isinstance(method, RankingSolver):
        return f"{method} is a solver, which has none"
    if isinstance(method, Criterion) and method.by_row:
        return f"those of {method} compare within a row only"
    return None


def _fraction(method: Method, pattern: Pattern, sparsity: float | None, targets: Sequence[Target]) -> float:
    """The sparsity asked for; 0 where the method sets it itself, the mean over weights where the pattern fixes it."""
    zeros = 0.0
    for target in targets:
        shape = tuple(target.weight.shape)
        try:
            pattern.expect(shape)
            zeros += pattern.sparsity(sparsity, shape) * target.weight.numel() if pattern.fixes_sparsity else 0.0
        except PatternError as error:
            raise PatternError(f"{target.name}: {error}") from None
    if pattern.fixes_sparsity:
        return zeros / max(1, sum(target.weight.numel() for target in targets))
    alone = not isinstance(method, Solver) and method.sets_sparsity
    return 0.0 if sparsity is None and alone else pattern.sparsity(sparsity, ())


def reads_batches(method: Method) -> bool:
    """Whether ``method`` looks at data."""
    if isinstance(method, Search):
        return True
    needs = method.statistics()
    return any(kind.needs_batches if issubclass(kind, ModelStatistic) else True for kind in needs)


def calls_loss(method: Method) -> bool:
    """Whether ``method`` calls the loss function."""
    if isinstance(method, Search):
        return method.needs_loss
    return any(issubclass(kind, ModelStatistic) and kind.needs_loss for kind in method.statistics())


def check_loss(method: Method, loss_fn: LossFunction | None) -> None:
    """Raise :class:`CalibrationError` unless there is a loss function where ``method`` calls one."""
    if calls_loss(method) and not callable(loss_fn):
        raise CalibrationError(f"loss_fn: {method} needs loss_fn(model, batch), a scalar tensor, got {loss_fn!r}")


def materialise(batches: Iterable[Any] | None, method: Method, allocation: Allocation) -> list[Any]:
    """The batches as a list: at least one where the method or the allocation needs some, else none."""
    reader = method if reads_batches(method) else allocation if allocation.needs_batches else None
    return [] if reader is None else read_out(batches, reader)


def read_out(batches: Iterable[Any] | None, reader: object) -> list[Any]:
    """The batches that ``reader`` needs as a list, at least one."""
    wanted = f"{reader} needs batches of what the model takes"
    if batches is None:
        raise CalibrationError(f"batches: {wanted}, got None")
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise CalibrationError(f"batches: {wanted}, in a list or another iterable, got one {type(batches).__name__}")
    data = list(batches)
    if not data:
        raise CalibrationError(f"batches: {wanted}, got an empty {type(batches).__name__}")
    return data


@contextmanager
def undoing() -> Iterator[Write]:
    """Give a function that writes into parameters; if the block fails, every parameter gets its old values back."""
    before: dict[nn.Parameter, Tensor] = {}

    def write(parameter: nn.Parameter, value: Tensor) -> None:
        if parameter not in before:
            before[parameter] = parameter.detach().clone()
        parameter.copy_(value)

    try:
        yield write
    except BaseException:
        for parameter, value in before.items():
            parameter.copy_(value)
        raise


def _report(masks: Mapping[str, Mask]) -> None:
    """Log what the pattern could not cover, and layers that lost nothing or everything."""
    collapsed = []
    for name, mask in masks.items():
        shape = tuple(mask.shape)
        high, wide = mask.pattern.grid(shape)
        if mask.remainder:
            LOG.info("%s %s: %s", name, shape, mask.remainder)
        if mask.keep.numel() and not high * wide:
            LOG.warning("%s %s: no whole unit of %s fits, so it stays dense", name, shape, mask.pattern)
        elif mask.keep.numel() and not bool(mask.pattern.pool(mask.keep.float()).any()):
            collapsed.append(f"{name} {shape}")
    if collapsed:
        count = f"{len(collapsed)} of {len(masks)} layers lose every unit"
        LOG.warning("%s, and let nothing of their inputs through: %s", count, ", ".join(collapsed))
