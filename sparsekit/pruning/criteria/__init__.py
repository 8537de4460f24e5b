"""Which weights matter."""

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.magnitude import Magnitude
from sparsekit.pruning.criteria.magnitude_gradient import MagnitudeGradient
from sparsekit.pruning.criteria.random import Random
from sparsekit.pruning.criteria.wanda import Wanda

CRITERIA: tuple[type[Criterion], ...] = (Random, Magnitude, MagnitudeGradient, Wanda)

__all__ = ["CRITERIA", "Criterion", "Magnitude", "MagnitudeGradient", "Random", "Wanda"]
