"""Methods that make weights small before they go."""

from sparsekit.training.penalties.auto_balanced import AutoBalanced
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.chauvin import ChauvinPenalty
from sparsekit.training.penalties.gsm import GSM
from sparsekit.training.penalties.learning_compression import LearningCompression
from sparsekit.training.penalties.partial_l2 import PartialL2
from sparsekit.training.penalties.selective_weight_decay import SelectiveWeightDecay
from sparsekit.training.penalties.soft_weight_sharing import SoftWeightSharing
from sparsekit.training.penalties.weight_elimination import WeightElimination

__all__ = [
    "GSM",
    "AutoBalanced",
    "ChauvinPenalty",
    "LearningCompression",
    "PartialL2",
    "PenaltyMethod",
    "SelectiveWeightDecay",
    "SoftWeightSharing",
    "WeightElimination",
]
