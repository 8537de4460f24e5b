"""Methods that look at the whole model at once."""

from sparsekit.pruning.searches.amc import AMC
from sparsekit.pruning.searches.base import ModelProblem, Search
from sparsekit.pruning.searches.pruning_agents import PruningAgents

SEARCHES: tuple[type[Search], ...] = (PruningAgents, AMC)

__all__ = ["AMC", "SEARCHES", "ModelProblem", "PruningAgents", "Search"]
