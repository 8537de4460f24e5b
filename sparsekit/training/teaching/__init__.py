"""Learning from the dense model while pruning."""

from sparsekit.training.teaching.distillation import Distillation

__all__ = ["Distillation"]
