"""Which axes of a model's parameters belong together."""

from sparsekit.pruning.dependencies.axes import Axis, Leaf, ends, resolve
from sparsekit.pruning.dependencies.trace import Dependencies, Place, follow, outputs_of

__all__ = ["Axis", "Dependencies", "Leaf", "Place", "ends", "follow", "outputs_of", "resolve"]
