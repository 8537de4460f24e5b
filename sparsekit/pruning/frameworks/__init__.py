"""The rules of other libraries, to the last weight: which count, which rounding, which ties."""

from sparsekit.pruning.frameworks.pytorch import read_torch, torch_prune
from sparsekit.pruning.frameworks.shrinkbench import shrinkbench_prune
from sparsekit.pruning.frameworks.tfmot import tfmot_prune

__all__ = ["read_torch", "shrinkbench_prune", "tfmot_prune", "torch_prune"]
