"""Methods that train gates, or the weights behind a mask."""

from sparsekit.training.gates.auto_prune import AutoPrune
from sparsekit.training.gates.base import GatedMethod
from sparsekit.training.gates.continuous_sparsification import ContinuousSparsification
from sparsekit.training.gates.dynamic_network_surgery import DynamicNetworkSurgery
from sparsekit.training.gates.l0_hard_concrete import L0HardConcrete
from sparsekit.training.gates.movement_pruning import MovementPruning
from sparsekit.training.gates.shift_attention import ShiftAttention
from sparsekit.training.gates.sr_ste import SRSTE
from sparsekit.training.gates.supermask import Supermask
from sparsekit.training.gates.trained_gates import TrainedGates
from sparsekit.training.gates.transposable_training import TransposableTraining
from sparsekit.training.gates.unit_gates import UnitGates

__all__ = [
    "SRSTE",
    "AutoPrune",
    "ContinuousSparsification",
    "DynamicNetworkSurgery",
    "GatedMethod",
    "L0HardConcrete",
    "MovementPruning",
    "ShiftAttention",
    "Supermask",
    "TrainedGates",
    "TransposableTraining",
    "UnitGates",
]
