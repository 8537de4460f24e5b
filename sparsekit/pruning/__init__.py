"""Pruning methods: masks, and sometimes new weights."""

from sparsekit.pruning.allocations import ALLOCATIONS, ERK, Allocation, Global, Uniform
from sparsekit.pruning.criteria import CRITERIA, Criterion, Magnitude, MagnitudeGradient, Random, Wanda
from sparsekit.pruning.losses import SampledOutput
from sparsekit.pruning.prune import prune
from sparsekit.pruning.searches import SEARCHES, ModelProblem, Search
from sparsekit.pruning.solvers import SOLVERS, LayerProblem, RankingSolver, Solution, Solver, SparseGPT
from sparsekit.pruning.statistics import (
    Gradient,
    Gram,
    InputNorm,
    InputStatistic,
    LayerStatistics,
    ModelStatistic,
    ModelView,
    Statistic,
)

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "ERK",
    "SEARCHES",
    "SOLVERS",
    "Allocation",
    "Criterion",
    "Global",
    "Gradient",
    "Gram",
    "InputNorm",
    "InputStatistic",
    "LayerProblem",
    "LayerStatistics",
    "Magnitude",
    "MagnitudeGradient",
    "ModelProblem",
    "ModelStatistic",
    "ModelView",
    "Random",
    "RankingSolver",
    "SampledOutput",
    "Search",
    "Solution",
    "Solver",
    "SparseGPT",
    "Statistic",
    "Uniform",
    "Wanda",
    "prune",
]
