"""Prune a model while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from sparsekit.batches import expect_module
from sparsekit.errors import LayerError, PatternError, PruningError
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations import Allocation, Uniform
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.prune import check_loss, read_out, reads_batches
from sparsekit.pruning.statistics import LossFunction, Target
from sparsekit.pruning.targets import Choice, find_targets
from sparsekit.training.base import TrainingMethod
from sparsekit.training.run import ATTACHED, Run
from sparsekit.training.sharding import expect_shardable, unwrapped
from sparsekit.training.site import Site
from sparsekit.training.state import State


def attach(  # noqa: PLR0913 - the one call of the package
    model: nn.Module,
    optimizer: Optimizer,
    method: TrainingMethod,
    pattern: Pattern | None = None,
    sparsity: float | None = None,
    steps: int | None = None,
    *,
    allocation: Allocation | None = None,
    layers: Choice = None,
    batches: Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    seed: int = 0,
) -> Run:
    """Prune ``model`` by ``method`` in the user's own training loop, which changes by two lines::

        run = sk.attach(model, optimizer, sk.RigL(), sparsity=0.9, steps=total)
        for batch in loader:
            loss = task_loss(model, batch) + run.penalty()
            loss.backward(); optimizer.step(); optimizer.zero_grad()
        masks = run.finish()

    All happens inside ``optimizer.step()``. Works with gradient scaling, accumulation and clipping, and with models
    inside ``torch.compile``, DistributedDataParallel and ``fully_shard``: masks are then the same on every rank.

    Args:
        model: any module; wrappers are looked through.
        optimizer: any of torch's that holds the pruned parameters, but LBFGS.
        method: a training method, such as ``RigL()``.
        pattern: the legal sets of kept weights; None = the method's own.
        sparsity: fraction of zeros at the end, in [0, 1); None where the pattern fixes it or the method learns it.
        steps: optimizer steps of the whole run; later steps train what is left, with the masks as they are.
        allocation: how layers share the budget; None = the method's own.
        layers: ``(name, module) -> bool`` over every Linear and Conv2d, or names of layers; None takes them all, or,
            where the pattern is the method's own, those that it is made for.
        batches, loss_fn: as in :func:`~sparsekit.pruning.prune`, for methods whose criterion needs data; the same on
            every rank, or masks would not be.
        seed: of all random numbers of the run, which do not touch the global generators.

    Raises:
        PruningError: the method, pattern and allocation do not go together, ``steps`` is missing or below 1, the
            optimizer does not hold a parameter, or a parameter is being pruned by another run.
        PatternError: the sparsity is outside [0, 1) or contradicts the pattern, or the pattern refuses a layer.
        LayerError: no layer matches, a name is unknown, or a weight cannot be pruned.
        CalibrationError: batches or a loss function are needed and missing.
    """
    found = begin(
        model,
        optimizer,
        method,
        pattern=pattern,
        sparsity=sparsity,
        steps=steps,
        allocation=allocation,
        layers=layers,
        batches=batches,
        loss_fn=loss_fn,
        seed=seed,
    )
    return Run(method, found)


def begin(  # noqa: PLR0913 - what the calls of the package take
    model: nn.Module,
    optimizer: Optimizer,
    method: TrainingMethod,
    *,
    pattern: Pattern | None,
    sparsity: float | None,
    steps: int | None,
    allocation: Allocation | None,
    layers: Choice,
    batches: Iterable[Any] | None,
    loss_fn: LossFunction | None,
    seed: int,
) -> State:
    """Check what :func:`attach` was given, and return what a run starts from; nothing has changed yet."""
    _check_kinds(model, optimizer, method, steps)
    inner = unwrapped(model)
    chosen = method.default_pattern if pattern is None else pattern
    sharing = _sharing(method, chosen, allocation)
    targets = find_targets(inner, layers)
    if pattern is None and layers is None:
        targets = [t for t in targets if not chosen.refuses(tuple(t.weight.shape))] or targets
    _check_held(targets, optimizer)
    sizes = {target.name: target.weight.numel() for target in targets}
    budget = _budget(method, chosen, sharing.budget(sparsity, sizes), targets)
    data = _data(method, sharing, batches, loss_fn)
    if budget is not None:
        sharing = sharing.prepare(ModelProblem(inner, targets, data, loss_fn, chosen, budget))
    assert steps is not None
    sites = tuple(_site(target, chosen) for target in targets)
    generator = torch.Generator().manual_seed(seed)
    return State(inner, optimizer, sites, chosen, budget, steps, sharing, data, loss_fn, generator)


def _data(
    method: TrainingMethod, sharing: Allocation, batches: Iterable[Any] | None, loss_fn: LossFunction | None
) -> list[Any]:
    """The batches as a list; raise where what reads them or calls the loss function would find none in mid-run."""
    for criterion in method.criteria():
        check_loss(criterion, loss_fn)
    readers = [*filter(reads_batches, method.criteria()), *[sharing] * sharing.needs_batches]
    return read_out(batches, readers[0] if readers else method) if readers or batches is not None else []


def _site(target: Target, pattern: Pattern) -> Site:
    keep = torch.ones(tuple(target.weight.shape), dtype=torch.bool, device=target.weight.device)
    return Site(target.name, target.weight, target.layers, pattern, keep)


def _check_kinds(model: object, optimizer: object, method: object, steps: object) -> None:
    """Raise unless each is of its kind."""
    expect_module(model)
    if not isinstance(optimizer, Optimizer):
        raise PruningError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise PruningError("optimizer: expected one that takes one gradient per step, got LBFGS, which takes many")
    if not isinstance(method, TrainingMethod):
        made = isinstance(method, type) and issubclass(method, TrainingMethod)
        hint = f"; write {method.__name__}(...)" if made else "; criteria and solvers go to prune"  # type: ignore[attr-defined]
        raise PruningError(f"method: expected a TrainingMethod such as GradualPruning(), got {method!r}{hint}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise PruningError(f"steps: expected the optimizer steps of the whole run, at least 1, got {steps!r}")


def _sharing(method: TrainingMethod, pattern: Pattern, allocation: Allocation | None) -> Allocation:
    """What shares out the budget; the method's own allocation where the user named none."""
    for word, value, kind in (("pattern", pattern, Pattern), ("allocation", allocation, Allocation)):
        if value is not None and not isinstance(value, kind):
            hint = f"; write {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kind) else ""
            article = "an" if word == "allocation" else "a"
            raise PruningError(f"{word}: expected {article} {kind.__name__}, got {value!r}{hint}")
    if allocation is None:
        return Uniform() if pattern.fixes_sparsity else method.default_allocation
    if pattern.fixes_sparsity and allocation != Uniform():
        raise PruningError(f"{pattern} fixes the sparsity of every layer, so {allocation} has nothing to share out")
    return allocation


def _check_held(targets: Sequence[Target], optimizer: Optimizer) -> None:
    """Raise unless ``optimizer`` steps each target, and no other run prunes it."""
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for target in targets:
        expect_shardable(target.name, target.weight)
        if not target.weight.requires_grad:
            raise LayerError(
                f"{target.name}: expected a weight that trains, got a frozen one; choose others by layers="
            )
        if id(target.weight) not in stepped:
            raise PruningError(f"{target.name}: expected an optimizer that holds the parameter, got one that does not")
        holder = ATTACHED.get(target.weight)
        if holder is not None and holder() is not None:
            raise PruningError(f"{target.name}: expected a weight that no run prunes, got one; finish() that run first")


def _budget(
    method: TrainingMethod, pattern: Pattern, sparsity: float | None, targets: Sequence[Target]
) -> float | None:
    """The sparsity of the whole run; None where the pattern fixes it or the method learns it."""
    for target in targets:
        shape = tuple(target.weight.shape)
        try:
            pattern.expect(shape)
            if pattern.fixes_sparsity:
                pattern.sparsity(sparsity, shape)
        except PatternError as error:
            raise PatternError(f"{target.name}: {error}") from None
        if reason := method.refuses(pattern, shape):
            raise PruningError(f"{target.name}: {method} {reason}")
    if pattern.fixes_sparsity or (sparsity is None and method.learns_sparsity):
        return None
    if sparsity is None:
        raise PatternError(f"sparsity: {method} expects a fraction of zeros in [0, 1), got None")
    return check_sparsity(sparsity)
