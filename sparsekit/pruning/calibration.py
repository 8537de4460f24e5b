"""Collect statistics layer by layer, each layer seeing inputs from the already pruned layers before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import CalibrationError
from sparsekit.pruning.pairing import DenseInputs, Twin
from sparsekit.pruning.replay import Replay
from sparsekit.pruning.statistics import (
    InputStatistic,
    Layer,
    LayerStatistics,
    ModelView,
    PairedStatistic,
    ResidualGap,
    Statistic,
    Target,
    groups_of,
    input_rows,
    rows_in,
)
from sparsekit.pruning.watching import Reached, Run, attempt, unpadded, watched_eval, watching, watching_sums

InputNeeds = Sequence[type[InputStatistic]]
Visit = Callable[[Target, LayerStatistics], None]


@dataclass(frozen=True)
class _Group:
    """Targets that get the same input tensor, in execution order, and whether they get it once per batch at most."""

    targets: list[Target]
    once: bool


def calibrate(view: ModelView, needs: InputNeeds, visit: Visit, dense: nn.Module | None = None) -> None:
    """Call ``visit(target, statistics)`` for each target in execution order; ``visit`` writes its new weight.

    A first run finds the order, and which layers get the same input tensor (query, key and value): these share one
    collection. Each run after it stops as soon as the layer waited for has got its input, and computes nothing twice
    (see :class:`~sparsekit.pruning.replay.Replay`). The model runs in eval mode without gradients and is left as it
    was. Where a batch is a mapping with an ``attention_mask`` ``(batch, tokens)``, the padded tokens of Linear inputs
    ``(batch, tokens, in)`` do not count. A paired statistic also sees what the same layer gets in the dense model,
    which runs beside the other, batch by batch, and stops at the same layers.

    Args:
        view: what is pruned.
        needs: the statistics to collect.
        visit: called once per target.
        dense: the dense model of paired statistics; None copies the model as it is now.

    Raises:
        CalibrationError: there are no batches, the model refuses one, a layer is never reached, inputs hold NaN, or
            the model cannot be copied.
    """
    with ExitStack() as stack:
        stack.enter_context(watched_eval(view.model))
        groups = _order(view)
        sums = any(kind.sees_sums for kind in needs)
        if sums:  # which differ where inputs are shared
            groups = [_Group([target], group.once) for group in groups for target in group.targets]
        paired = sums or any(issubclass(kind, PairedStatistic) for kind in needs)
        twin = stack.enter_context(Twin(view, dense)) if paired else None
        replay = stack.enter_context(Replay(view.model, [target.weight for target in view.targets]))
        for group in groups:
            run = partial(replay.run, [target.weight for target in group.targets], view.run)
            (stats,) = _collect(run, [group], view.batches, needs, stop=group.once, twin=twin)
            for target in group.targets:
                visit(target, LayerStatistics(target.name, stats))
                replay.changed(target.weight)
            if twin is not None:
                twin.passed(group.targets)


def survey(view: ModelView, needs: InputNeeds) -> dict[str, LayerStatistics]:
    """Collect the statistics of all targets from the model as it is, by parameter name; pairs are of equal inputs.

    Raises:
        CalibrationError: as :func:`calibrate`.
    """
    with watched_eval(view.model):
        groups = _order(view)
        found = _collect(lambda _, batch: view.run(batch), groups, view.batches, needs, stop=False)
    return {
        target.name: LayerStatistics(target.name, stats)
        for group, stats in zip(groups, found)
        for target in group.targets
    }


def count_rows(view: ModelView) -> dict[str, int]:
    """Count the input rows of each target in all batches, of all layers that use it, padding included.

    Each row costs as many multiplications and additions as the weight has entries.

    Raises:
        CalibrationError: as :func:`calibrate`.
    """
    rows = {target.name: 0 for target in view.targets}

    def see(target: Target, layer: nn.Module, value: Tensor) -> None:
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        rows[target.name] += rows_in(layer, value)

    with watched_eval(view.model), watching(view.targets, see):
        for index, batch in enumerate(view.batches):
            attempt(lambda _, batch: view.run(batch), index, batch)
    for name, count in rows.items():
        if not count:
            raise CalibrationError(f"{name}: expected batches that reach it, got {len(view.batches)} that do not")
    return rows


@dataclass
class _Trace:
    """Which distinct input, in order, each target got in one batch."""

    inputs: dict[Target, list[int]] = field(default_factory=dict)
    count: int = 0
    last: Tensor | None = None
    version: int = -1

    def see(self, target: Target, layer: nn.Module, value: Tensor) -> None:
        version = -1 if value.is_inference() else value._version
        if value is not self.last or version != self.version:
            self.last, self.version, self.count = value, version, self.count + 1
        self.inputs.setdefault(target, []).append(self.count)


def _order(view: ModelView) -> list[_Group]:
    """Run every batch once; return the targets in execution order, grouped by shared input."""
    traces: list[_Trace] = []
    order: list[Target] = []
    for index, batch in enumerate(view.batches):
        trace = _Trace()
        with watching(view.targets, trace.see):
            attempt(lambda _, batch: view.run(batch), index, batch)
        trace.last = None
        traces.append(trace)
        place = 0  # what only this batch reaches goes right behind what it was reached after
        for target in trace.inputs:
            if target not in order:
                order.insert(place, target)
            place = order.index(target) + 1
    for target in view.targets:
        if target not in order:
            count = len(view.batches)
            raise CalibrationError(f"{target.name}: expected batches that reach it, got {count} that do not")
    groups: list[_Group] = []
    for target in order:
        once = all(len(trace.inputs.get(target, [])) <= 1 for trace in traces)
        if once and groups and groups[-1].once and _share_input(groups[-1].targets[-1], target, traces):
            groups[-1].targets.append(target)
        else:
            groups.append(_Group([target], once))
    return groups


def _share_input(one: Target, other: Target, traces: Sequence[_Trace]) -> bool:
    """Whether two targets have the same statistics: the same input tensors, cut into rows the same way."""
    kinds = [
        (
            *(getattr(target.layers[0], name, None) for name in ("kernel_size", "stride", "padding", "dilation")),
            *(getattr(target.layers[0], name, None) for name in ("padding_mode", "groups")),
            target.weight.dtype,
            target.weight.device,
        )
        for target in (one, other)
    ]
    return kinds[0] == kinds[1] and all(trace.inputs.get(one) == trace.inputs.get(other) for trace in traces)


def _collect(
    run: Run,
    groups: Sequence[_Group],
    batches: Sequence[Any],
    needs: InputNeeds,
    *,
    stop: bool,
    twin: Twin | None = None,
) -> list[dict[type[Statistic], InputStatistic]]:
    """Collect the statistics of each group from its first target; ``stop`` each run once that has got its input."""
    found = {group.targets[0]: _start(group.targets[0], needs) for group in groups}
    together = [target for group in groups for target in group.targets]
    sums = twin is not None and any(kind.sees_sums for kind in needs)
    for index, batch in enumerate(batches):
        dense = twin.inputs(list(found), together, index, stop=stop, sums=sums) if twin is not None else None

        def see(
            target: Target,
            layer: nn.Module,
            value: Tensor,
            addend: Tensor | None = None,
            batch: Any = batch,
            dense: DenseInputs | None = dense,
        ) -> None:
            assert isinstance(layer, (nn.Linear, nn.Conv2d))
            other, wanted = (None, None) if dense is None else dense.next(target, value)
            inputs = unpadded(layer, value, batch)
            _add(found[target].values(), layer, inputs, None if other is None else unpadded(layer, other, batch))
            if isinstance(layer, nn.Linear) and addend is not None and wanted is not None:
                _add_gap(found[target].values(), inputs, unpadded(layer, wanted - addend, batch))
            if stop:
                raise Reached

        with watching_sums(list(found), see) if sums else watching(list(found), see):
            attempt(run, index, batch)
    for target, stats in found.items():
        for statistic in stats.values():
            _check(target, statistic)
    return list(found.values())


def _add(statistics: Iterable[InputStatistic], layer: Layer, inputs: Tensor, dense: Tensor | None) -> None:
    """Add the rows of ``inputs`` to all, with those of the dense model beside them where they are paired."""
    if dense is None:
        for rows in input_rows(layer, inputs):
            for statistic in statistics:
                statistic.add(rows)
        return
    for rows, others in zip(input_rows(layer, inputs), input_rows(layer, dense)):
        for statistic in statistics:
            if isinstance(statistic, PairedStatistic):
                statistic.add_pair(rows, others)
            else:
                statistic.add(rows)


def _add_gap(statistics: Iterable[InputStatistic], inputs: Tensor, gap: Tensor) -> None:
    """Add what the sum behind a Linear lacks, token by token."""
    for statistic in statistics:
        if isinstance(statistic, ResidualGap):
            statistic.add_gap(inputs.reshape(1, -1, inputs.shape[-1]), gap.reshape(1, -1, gap.shape[-1]))


def _start(target: Target, needs: InputNeeds) -> dict[type[Statistic], InputStatistic]:
    """Empty statistics for ``target``, in float32 unless its weight is float64."""
    layer, weight = target.layers[0], target.weight
    like = torch.empty(0, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
    return {kind: kind(groups_of(layer), weight[:1].numel(), like) for kind in needs}


def _check(target: Target, statistic: InputStatistic) -> None:
    """Raise :class:`CalibrationError` unless ``statistic`` is of something, and finite."""
    if statistic.rows == 0:
        raise CalibrationError(f"{target.name}: expected inputs from the batches, got none")
    if not bool(torch.isfinite(statistic.sum).all()):
        raise CalibrationError(f"{target.name}: expected finite inputs, got NaN or infinite {type(statistic).__name__}")
