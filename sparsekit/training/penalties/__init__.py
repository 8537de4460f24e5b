"""Methods that make weights small before they go."""

from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.selective_weight_decay import SelectiveWeightDecay

__all__ = ["PenaltyMethod", "SelectiveWeightDecay"]
