"""Methods that make weights small before they go."""

from sparsekit.training.penalties.auto_balanced import AutoBalanced
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.chauvin import ChauvinPenalty
from sparsekit.training.penalties.greg1 import GReg1
from sparsekit.training.penalties.greg2 import GReg2
from sparsekit.training.penalties.group_lasso import GroupLasso
from sparsekit.training.penalties.growing import GrowingPenalty
from sparsekit.training.penalties.gsm import GSM
from sparsekit.training.penalties.learning_compression import LearningCompression
from sparsekit.training.penalties.modified_half import ModifiedHalf
from sparsekit.training.penalties.partial_l2 import PartialL2
from sparsekit.training.penalties.selective_weight_decay import SelectiveWeightDecay
from sparsekit.training.penalties.soft_weight_sharing import SoftWeightSharing
from sparsekit.training.penalties.vacl import VACL
from sparsekit.training.penalties.weight_elimination import WeightElimination

__all__ = [
    "GSM",
    "VACL",
    "AutoBalanced",
    "ChauvinPenalty",
    "GReg1",
    "GReg2",
    "GroupLasso",
    "GrowingPenalty",
    "LearningCompression",
    "ModifiedHalf",
    "PartialL2",
    "PenaltyMethod",
    "SelectiveWeightDecay",
    "SoftWeightSharing",
    "WeightElimination",
]
