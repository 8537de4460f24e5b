"""How layers share a budget of zeros."""

from sparsekit.pruning.allocations.base import Allocation
from sparsekit.pruning.allocations.erk import ERK
from sparsekit.pruning.allocations.ranking import Global
from sparsekit.pruning.allocations.uniform import Uniform

ALLOCATIONS: tuple[type[Allocation], ...] = (Uniform, Global, ERK)

__all__ = ["ALLOCATIONS", "ERK", "Allocation", "Global", "Uniform"]
