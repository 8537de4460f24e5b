"""Methods that prune while a model trains, and the run that carries them."""

from sparsekit.training.attach import attach
from sparsekit.training.base import TrainingMethod
from sparsekit.training.gates import SRSTE, GatedMethod
from sparsekit.training.history import History
from sparsekit.training.masking import GradualPruning
from sparsekit.training.penalties import PenaltyMethod, SelectiveWeightDecay
from sparsekit.training.run import Run
from sparsekit.training.site import Site
from sparsekit.training.state import State

TRAINING_METHODS: tuple[type[TrainingMethod], ...] = (
    GradualPruning,
    SRSTE,
    SelectiveWeightDecay,
)

__all__ = [
    "SRSTE",
    "TRAINING_METHODS",
    "GatedMethod",
    "GradualPruning",
    "History",
    "PenaltyMethod",
    "Run",
    "SelectiveWeightDecay",
    "Site",
    "State",
    "TrainingMethod",
    "attach",
]
