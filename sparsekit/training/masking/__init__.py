"""Methods that choose what to remove, and go on training."""

from sparsekit.training.masking.asp import ASP
from sparsekit.training.masking.gradual import GradualPruning
from sparsekit.training.masking.soft_filter import SoftFilterPruning

__all__ = ["ASP", "GradualPruning", "SoftFilterPruning"]
