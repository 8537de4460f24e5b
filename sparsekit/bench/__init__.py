"""Benchmarks: problems times kernels, each checked for correctness before it is timed."""

from sparsekit.bench.choice import DENSE, run
from sparsekit.bench.conv import run_conv
from sparsekit.bench.encoders import engines_here, run_encoders
from sparsekit.bench.linear import run_linear
from sparsekit.bench.linear_problems import PROBLEMS, QUICK_PROBLEMS
from sparsekit.bench.model import run_models
from sparsekit.bench.network import run_networks
from sparsekit.bench.pictures import draw_linear
from sparsekit.bench.problems import (
    CONV_CASES,
    MODEL_CASES,
    NETWORK_CASES,
    QUICK_CONV_CASES,
    QUICK_TRAINING_PROBLEMS,
    TRAINING_PROBLEMS,
    ConvCase,
    ConvLayer,
    EncoderCase,
    LinearProblem,
    ModelCase,
    NetworkCase,
)
from sparsekit.bench.results import Notes, Results, Row, title
from sparsekit.bench.training import run_training

__all__ = [
    "CONV_CASES",
    "DENSE",
    "MODEL_CASES",
    "NETWORK_CASES",
    "PROBLEMS",
    "QUICK_CONV_CASES",
    "QUICK_PROBLEMS",
    "QUICK_TRAINING_PROBLEMS",
    "TRAINING_PROBLEMS",
    "ConvCase",
    "ConvLayer",
    "EncoderCase",
    "LinearProblem",
    "ModelCase",
    "NetworkCase",
    "Notes",
    "Results",
    "Row",
    "draw_linear",
    "engines_here",
    "run",
    "run_conv",
    "run_encoders",
    "run_linear",
    "run_models",
    "run_networks",
    "run_training",
    "title",
]
