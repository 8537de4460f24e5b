"""A whole model's pruning problem."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.groups import Group
from sparsekit.pruning.statistics import ModelView


@dataclass(frozen=True)
class ModelProblem(ModelView):
    """A model to prune.

    Args:
        pattern: what every mask has to obey.
        sparsity: fraction of all units that go, in [0, 1).
        open_ended: no sparsity was asked for, so that the method says how much goes; ``sparsity`` is then 0.
        groups: weights whose units go together, perhaps by patterns of their own.
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009 - frozen
    sparsity: float = 0.0
    open_ended: bool = False
    groups: tuple[Group, ...] = ()

    def pattern_of(self, name: str) -> Pattern:
        """The pattern of the weight called ``name``."""
        own = {member: pattern for group in self.groups for member, pattern in group.members}
        return own.get(name, self.pattern)
