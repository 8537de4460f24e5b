"""Methods that prune while a model trains, and the run that carries them."""

from sparsekit.training.attach import attach
from sparsekit.training.base import TrainingMethod
from sparsekit.training.gates import (
    SRSTE,
    AutoPrune,
    ContinuousSparsification,
    DynamicNetworkSurgery,
    GatedMethod,
    L0HardConcrete,
    MovementPruning,
    ShiftAttention,
    TrainedGates,
)
from sparsekit.training.growth import DSR, SET, SNFS, DynamicSparseTraining, RigL
from sparsekit.training.history import History
from sparsekit.training.masking import ASP, GradualPruning, SoftFilterPruning
from sparsekit.training.penalties import (
    GSM,
    AutoBalanced,
    ChauvinPenalty,
    LearningCompression,
    PartialL2,
    PenaltyMethod,
    SelectiveWeightDecay,
    SoftWeightSharing,
    WeightElimination,
)
from sparsekit.training.run import Run
from sparsekit.training.site import Site
from sparsekit.training.state import State

TRAINING_METHODS: tuple[type[TrainingMethod], ...] = (
    GradualPruning,
    SoftFilterPruning,
    ASP,
    SET,
    DSR,
    SNFS,
    RigL,
    DynamicNetworkSurgery,
    SRSTE,
    TrainedGates,
    L0HardConcrete,
    AutoPrune,
    ContinuousSparsification,
    ShiftAttention,
    MovementPruning,
    SelectiveWeightDecay,
    AutoBalanced,
    GSM,
    PartialL2,
    LearningCompression,
    WeightElimination,
    SoftWeightSharing,
    ChauvinPenalty,
)

__all__ = [
    "ASP",
    "DSR",
    "GSM",
    "SET",
    "SNFS",
    "SRSTE",
    "TRAINING_METHODS",
    "AutoBalanced",
    "AutoPrune",
    "ChauvinPenalty",
    "ContinuousSparsification",
    "DynamicNetworkSurgery",
    "DynamicSparseTraining",
    "GatedMethod",
    "GradualPruning",
    "History",
    "L0HardConcrete",
    "LearningCompression",
    "MovementPruning",
    "PartialL2",
    "PenaltyMethod",
    "RigL",
    "Run",
    "SelectiveWeightDecay",
    "ShiftAttention",
    "Site",
    "SoftFilterPruning",
    "SoftWeightSharing",
    "State",
    "TrainedGates",
    "TrainingMethod",
    "WeightElimination",
    "attach",
]
