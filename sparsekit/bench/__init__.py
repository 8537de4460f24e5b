"""Benchmarks: problems times kernels, each checked for correctness before it is timed."""

from sparsekit.bench.linear import run_linear
from sparsekit.bench.model import run_models
from sparsekit.bench.problems import (
    MODEL_CASES,
    PROBLEMS,
    QUICK_PROBLEMS,
    QUICK_TRAINING_PROBLEMS,
    TRAINING_PROBLEMS,
    LinearProblem,
    ModelCase,
)
from sparsekit.bench.results import Results, title
from sparsekit.bench.training import run_training

__all__ = [
    "MODEL_CASES",
    "PROBLEMS",
    "QUICK_PROBLEMS",
    "QUICK_TRAINING_PROBLEMS",
    "TRAINING_PROBLEMS",
    "LinearProblem",
    "ModelCase",
    "Results",
    "run_linear",
    "run_models",
    "run_training",
    "title",
]
