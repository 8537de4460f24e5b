"""Which layers to replace, by measurement on this machine."""

from sparsekit.planning.planner import Plan, compile, plan

__all__ = ["Plan", "compile", "plan"]
