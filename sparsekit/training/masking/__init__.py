"""Methods that choose what to remove, and go on training."""

from sparsekit.training.masking.gradual import GradualPruning

__all__ = ["GradualPruning"]
