"""Which layers to replace, by measurement on this machine."""

from sparsekit.planning.plan import Plan, compile, plan

__all__ = ["Plan", "compile", "plan"]
