"""Which layers to replace, by measurement on this machine."""

from sparsekit.planning.costs import layer_costs
from sparsekit.planning.planner import Plan, compile, plan

__all__ = ["Plan", "compile", "layer_costs", "plan"]
