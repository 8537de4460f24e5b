"""Methods that prune while a model trains, and the run that carries them."""

from sparsekit.training.attach import attach
from sparsekit.training.base import TrainingMethod
from sparsekit.training.distillation import Distillation
from sparsekit.training.gates import (
    SRSTE,
    AutoPrune,
    ContinuousSparsification,
    DynamicNetworkSurgery,
    GatedMethod,
    L0HardConcrete,
    MovementPruning,
    ShiftAttention,
    Supermask,
    TrainedGates,
    TransposableTraining,
)
from sparsekit.training.growth import DSR, SET, SNFS, DynamicSparseTraining, RigL
from sparsekit.training.history import History
from sparsekit.training.iterate import Round, iterate
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
from sparsekit.training.rounds import IterativePruning, LearningRateRewinding, LotteryTicket, RoundMethod
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
    IterativePruning,
    LearningRateRewinding,
    LotteryTicket,
    Supermask,
    TransposableTraining,
    Distillation,
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
    "Distillation",
    "DynamicNetworkSurgery",
    "DynamicSparseTraining",
    "GatedMethod",
    "GradualPruning",
    "History",
    "IterativePruning",
    "L0HardConcrete",
    "LearningCompression",
    "LearningRateRewinding",
    "LotteryTicket",
    "MovementPruning",
    "PartialL2",
    "PenaltyMethod",
    "RigL",
    "Round",
    "RoundMethod",
    "Run",
    "SelectiveWeightDecay",
    "ShiftAttention",
    "Site",
    "SoftFilterPruning",
    "SoftWeightSharing",
    "State",
    "Supermask",
    "TrainedGates",
    "TrainingMethod",
    "TransposableTraining",
    "WeightElimination",
    "attach",
    "iterate",
]
