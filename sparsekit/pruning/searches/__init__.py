"""Methods that look at the whole model at once."""

from sparsekit.pruning.searches.base import ModelProblem, Search

SEARCHES: tuple[type[Search], ...] = ()

__all__ = ["SEARCHES", "ModelProblem", "Search"]
