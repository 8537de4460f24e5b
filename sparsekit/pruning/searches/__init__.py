"""Methods that look at the whole model at once."""

from sparsekit.pruning.searches.amc import AMC
from sparsekit.pruning.searches.base import ModelProblem, Search
from sparsekit.pruning.searches.besa import BESA
from sparsekit.pruning.searches.pruning_agents import PruningAgents

SEARCHES: tuple[type[Search], ...] = (PruningAgents, AMC, BESA)

__all__ = ["AMC", "BESA", "SEARCHES", "ModelProblem", "PruningAgents", "Search"]
