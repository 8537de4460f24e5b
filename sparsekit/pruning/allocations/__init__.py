"""How layers share a budget of zeros."""

from sparsekit.pruning.allocations.base import Allocation
from sparsekit.pruning.allocations.cost_weighted import CostWeighted
from sparsekit.pruning.allocations.erdos_renyi import ErdosRenyi
from sparsekit.pruning.allocations.erk import ERK
from sparsekit.pruning.allocations.owl import OWL
from sparsekit.pruning.allocations.per_layer import PerLayer
from sparsekit.pruning.allocations.ranking import Global
from sparsekit.pruning.allocations.sensitivity import Sensitivity
from sparsekit.pruning.allocations.uniform import Uniform

ALLOCATIONS: tuple[type[Allocation], ...] = (
    Uniform,
    Global,
    ErdosRenyi,
    ERK,
    PerLayer,
    OWL,
    CostWeighted,
    Sensitivity,
)

__all__ = [
    "ALLOCATIONS",
    "ERK",
    "OWL",
    "Allocation",
    "CostWeighted",
    "ErdosRenyi",
    "Global",
    "PerLayer",
    "Sensitivity",
    "Uniform",
]
