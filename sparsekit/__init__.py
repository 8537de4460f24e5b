"""Sparse neural networks that run faster: masks, packed formats, and the kernels that run them."""

from sparsekit import formats, kernels, nn, patterns, planning, pruning
from sparsekit.checkpoint import load, save
from sparsekit.errors import (
    CalibrationError,
    CheckpointError,
    FormatError,
    InputError,
    KernelError,
    LayerError,
    MaskError,
    PatternError,
    PruningError,
    SparsekitError,
    SparsekitWarning,
)
from sparsekit.mask import Mask, read_mask
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning import Plan, compile, plan
from sparsekit.pruning import ERK, Global, Magnitude, MagnitudeGradient, Random, SparseGPT, Uniform, Wanda, prune

__all__ = [
    "ERK",
    "NM",
    "Block",
    "CalibrationError",
    "CheckpointError",
    "FormatError",
    "Global",
    "InputError",
    "KernelError",
    "LayerError",
    "Magnitude",
    "MagnitudeGradient",
    "Mask",
    "MaskError",
    "PatternError",
    "Plan",
    "PruningError",
    "Random",
    "SparseGPT",
    "SparsekitError",
    "SparsekitWarning",
    "Uniform",
    "Unstructured",
    "Wanda",
    "compile",
    "formats",
    "kernels",
    "load",
    "nn",
    "patterns",
    "plan",
    "planning",
    "prune",
    "pruning",
    "read_mask",
    "save",
]
__version__ = "0.1.0"
