"""Benchmarks: problems times kernels, each checked for correctness before it is timed."""

from sparsekit.bench.conv import run_conv
from sparsekit.bench.encoders import engines_here, run_encoders
from sparsekit.bench.linear import run_linear
from sparsekit.bench.model import run_models
from sparsekit.bench.network import run_networks
from sparsekit.bench.problems import (
    CONV_CASES,
    MODEL_CASES,
    NETWORK_CASES,
    PROBLEMS,
    QUICK_CONV_CASES,
    QUICK_PROBLEMS,
    QUICK_TRAINING_PROBLEMS,
    TRAINING_PROBLEMS,
    ConvCase,
    ConvLayer,
    EncoderCase,
    LinearProblem,
    ModelCase,
    NetworkCase,
)
from sparsekit.bench.results import Results, title
from sparsekit.bench.training import run_training

__all__ = [
    "CONV_CASES",
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
    "Results",
    "engines_here",
    "run_conv",
    "run_encoders",
    "run_linear",
    "run_models",
    "run_networks",
    "run_training",
    "title",
]
