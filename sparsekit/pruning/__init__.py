"""Pruning methods: masks, and sometimes new weights."""

from sparsekit.pruning import frameworks
from sparsekit.pruning.allocations import ALLOCATIONS, ERK, Allocation, ErdosRenyi, Global, PerLayer, Uniform
from sparsekit.pruning.criteria import (
    CRITERIA,
    LAMP,
    Criterion,
    FilterNorm,
    GeometricMedian,
    Magnitude,
    MagnitudeActivation,
    MagnitudeGradient,
    Random,
    RandomBernoulli,
    ThresholdMagnitude,
    Wanda,
)
from sparsekit.pruning.losses import SampledOutput
from sparsekit.pruning.prune import prune
from sparsekit.pruning.searches import SEARCHES, ModelProblem, Search
from sparsekit.pruning.solvers import SOLVERS, LayerProblem, RankingSolver, Solution, Solver, SparseGPT
from sparsekit.pruning.statistics import (
    Gradient,
    Gram,
    InputMean,
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
    "LAMP",
    "SEARCHES",
    "SOLVERS",
    "Allocation",
    "Criterion",
    "ErdosRenyi",
    "FilterNorm",
    "GeometricMedian",
    "Global",
    "Gradient",
    "Gram",
    "InputMean",
    "InputNorm",
    "InputStatistic",
    "LayerProblem",
    "LayerStatistics",
    "Magnitude",
    "MagnitudeActivation",
    "MagnitudeGradient",
    "ModelProblem",
    "ModelStatistic",
    "ModelView",
    "PerLayer",
    "Random",
    "RandomBernoulli",
    "RankingSolver",
    "SampledOutput",
    "Search",
    "Solution",
    "Solver",
    "SparseGPT",
    "Statistic",
    "ThresholdMagnitude",
    "Uniform",
    "Wanda",
    "frameworks",
    "prune",
]
