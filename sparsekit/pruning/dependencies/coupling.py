"""Which units of which weights have to go together, so that whole channels of the network go."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import nn

from sparsekit.errors import PruningError
from sparsekit.patterns import Block, Head, Pattern
from sparsekit.patterns.slices import Slices
from sparsekit.pruning.dependencies.axes import Axis, Leaf, resolve
from sparsekit.pruning.dependencies.trace import Dependencies, follow
from sparsekit.pruning.groups import Group
from sparsekit.pruning.statistics import Target
from sparsekit.pruning.targets import Choice, find_targets

LOG = logging.getLogger("sparsekit")

Label = tuple[tuple[Leaf, ...], int]


def coupled(model: nn.Module, example_inputs: Any, pattern: Pattern, layers: Choice = None) -> tuple[Group, ...]:
    """Find the weights of which the same units of ``pattern`` have to go, so that the network gets smaller.

    With :class:`~sparsekit.patterns.Filter`, layers whose outputs are added, multiplied, or passed on by a depthwise
    convolution lose the same outputs; with :class:`~sparsekit.patterns.Channel`, layers that read the same channels
    lose the same inputs; with :class:`~sparsekit.patterns.Head`, query, key and value projections lose the same heads,
    and the output projection, by its columns, too. Heads are found where the model reshapes into them. A weight that
    goes alone is in no group.

    Args:
        model: any module; left as it was.
        example_inputs: what the model takes; one run on them is followed, in eval mode.
        pattern: of whole outputs or whole inputs: ``Filter``, ``Channel``, ``Head``, or ``Block`` as high or as wide
            as the weights.
        layers: which weights count, as in :func:`~sparsekit.pruning.prune`.

    Raises:
        PruningError: the pattern is another.
        LayerError: no layer matches, a name is unknown, or a weight cannot be pruned.
        InputError: the model refuses the inputs.
    """
    targets = find_targets(model, layers)
    dependencies = follow(model, example_inputs)
    if dependencies.unknown:
        LOG.warning("coupling is not followed through %s", ", ".join(sorted(dependencies.unknown)))
    found: dict[Label, list[tuple[str, Pattern]]] = {}
    for target in targets:
        if target.name not in dependencies.axes:
            LOG.warning("%s: not reached from the example inputs, so it is in no group", target.name)
            continue
        for own in _sides(pattern):
            label = _label(target, own, dependencies)
            if label is not None:
                found.setdefault(label, []).append((target.name, own))
                break
    return tuple(Group(tuple(members)) for members in found.values() if len(members) > 1)


def _sides(pattern: Pattern) -> tuple[Pattern, ...]:
    """The pattern, and for heads, that of the other side of the weight."""
    return (pattern, Head(pattern.dim, 1 - pattern.axis)) if isinstance(pattern, Head) else (pattern,)


def _run(pattern: Pattern, shape: tuple[int, ...]) -> tuple[int, int]:
    """``(axis, length)`` of the pattern's units, which have to be whole rows or columns."""
    if isinstance(pattern, Slices):
        return pattern.run
    if isinstance(pattern, Block) and pattern.columns >= math.prod(shape[1:]):
        return 0, pattern.rows
    if isinstance(pattern, Block) and pattern.rows >= shape[0] and len(shape) == 2:
        return 1, pattern.columns
    raise PruningError(f"coupled: expected a pattern of whole outputs or whole inputs, got {pattern} for shape {shape}")


def _label(target: Target, pattern: Pattern, dependencies: Dependencies) -> Label | None:
    """What all weights that are coupled with this one share; None for a run that is no head where heads are wanted."""
    dim, length = _run(pattern, tuple(target.weight.shape))
    axis = resolve(dependencies.axes[target.name][dim])
    if dim == 0 and any(leaf.pieces is not None for leaf in axis):
        LOG.warning("%s: its outputs are cut or joined, so their coupling is not followed", target.name)
        return None
    whole = _outer(axis, length)
    if whole is not None and (whole or not isinstance(pattern, Head)):
        return whole, 1
    return None if isinstance(pattern, Head) else (axis, length)


def _outer(axis: Axis, length: int) -> Axis | None:
    """The leaves that number runs of ``length``; None where a run ends within a leaf."""
    count = len(axis)
    while length > 1 and count and length % axis[count - 1].size == 0:
        count -= 1
        length //= axis[count].size
    return axis[:count] if length == 1 else None
