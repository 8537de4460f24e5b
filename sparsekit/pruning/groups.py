"""Weights whose units stay or go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import removed
from sparsekit.pruning.statistics import Target


@dataclass(frozen=True)
class Group:
    """Weights of which the same units go, by their number; ``Group((("q.weight", Head(64)), ...))``.

    Args:
        members: name of the parameter and its pattern. All have as many units as each other.
    """

    members: tuple[tuple[str, Pattern], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return tuple(name for name, _ in self.members)

    def units(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The members' unit scores summed, ``(1, units)``, in float64."""
        return torch.stack([pattern.pool(scores[name]).double().reshape(-1) for name, pattern in self.members]).sum(
            dim=0, keepdim=True
        )

    def choose(self, units: Tensor, share: float, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """What stays of each member: the highest of ``units``, the lower number among equals.

        Args:
            units: ``(1, units)``, higher = keep.
            share: fraction that goes, in [0, 1].
            shapes: of the members' weights.
        """
        count = units.numel()
        gone = count if share >= 1.0 else removed(share, count)
        keep = self.members[0][1].keep(units, gone)
        return {
            name: pattern.spread(keep.reshape(pattern.grid(tuple(shapes[name]))), tuple(shapes[name]))
            for name, pattern in self.members
        }


def check_groups(groups: Sequence[Group], targets: Sequence[Target]) -> None:
    """Raise :class:`PruningError` unless every group is of weights that are pruned, in one group each, and fits."""
    shapes = {target.name: tuple(target.weight.shape) for target in targets}
    seen: set[str] = set()
    for group in groups:
        if not isinstance(group, Group) or not group.members:
            raise PruningError(f"groups: expected Group values with members, got {group!r}")
        counts = {}
        for name, pattern in group.members:
            if name not in shapes:
                raise PruningError(f"groups: expected names of weights that are pruned, got {name!r}")
            if name in seen:
                raise PruningError(f"groups: expected {name} in one group, got it in two")
            if pattern.fixes_sparsity:
                raise PruningError(f"groups: {pattern} chooses in every layer by itself, so {name} cannot be coupled")
            seen.add(name)
            high, wide = pattern.grid(shapes[name])
            counts[name] = high * wide
        if len(set(counts.values())) > 1:
            raise PruningError(f"groups: expected members with as many units as each other, got {counts}")
