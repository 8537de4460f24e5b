"""Statistics of all layers of the model as it is, from inputs and from the whole model alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sparsekit.pruning.calibration import survey
from sparsekit.pruning.statistics import (
    InputStatistic,
    LayerStatistics,
    ModelStatistic,
    ModelView,
    Needs,
    Statistic,
    Target,
)

ROOM = 2 << 30
"""Bytes of statistics that are held at a time."""


def surveyed(view: ModelView, needs: Needs) -> Iterator[tuple[Target, LayerStatistics]]:
    """Yield each target with its statistics of the model as it is, a few layers at a time where they are large."""
    inputs, whole = split(needs)
    for targets in _portions(view, needs):
        part = replace(view, targets=targets)
        stats = survey(part, inputs) if inputs else {}
        found = {kind: kind.collect(part) for kind in whole}
        for target in targets:
            collected: dict[type[Statistic], Statistic] = dict(stats[target.name].collected) if inputs else {}
            collected.update({kind: by_name[target.name] for kind, by_name in found.items()})
            yield target, LayerStatistics(target.name, collected)
        del stats, found, collected  # before the next portion needs the room


def _portions(view: ModelView, needs: Needs) -> Iterator[list[Target]]:
    """Cut the targets into runs whose statistics find room together, at least one target each."""
    portion: list[Target] = []
    taken = 0
    for target in view.targets:
        size = sum(kind.footprint(target, view.batches) for kind in needs)
        if portion and taken + size > ROOM:
            yield portion
            portion, taken = [], 0
        portion.append(target)
        taken += size
    yield portion


def split(needs: Needs) -> tuple[tuple[type[InputStatistic], ...], tuple[type[ModelStatistic], ...]]:
    """What is seen at the layers' inputs, and what takes the whole model."""
    inputs = tuple(kind for kind in needs if issubclass(kind, InputStatistic))
    return inputs, tuple(kind for kind in needs if issubclass(kind, ModelStatistic))
