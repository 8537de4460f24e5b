"""Pruning methods: masks, and sometimes new weights."""

from sparsekit.pruning.allocation import ALLOCATIONS, ERK, Allocation, Global, Uniform
from sparsekit.pruning.criteria import CRITERIA, Criterion, Magnitude, Random, Wanda
from sparsekit.pruning.prune import prune
from sparsekit.pruning.solvers import SOLVERS, LayerProblem, Solution, Solver, SparseGPT
from sparsekit.pruning.statistics import Gram, InputNorm, LayerStatistics, Statistic

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "ERK",
    "SOLVERS",
    "Allocation",
    "Criterion",
    "Global",
    "Gram",
    "InputNorm",
    "LayerProblem",
    "LayerStatistics",
    "Magnitude",
    "Random",
    "Solution",
    "Solver",
    "SparseGPT",
    "Statistic",
    "Uniform",
    "Wanda",
    "prune",
]
