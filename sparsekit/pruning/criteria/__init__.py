"""Which weights matter."""

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.batchnorm_scale import BatchNormScale
from sparsekit.pruning.criteria.filter_norm import FilterNorm
from sparsekit.pruning.criteria.geometric_median import GeometricMedian
from sparsekit.pruning.criteria.lamp import LAMP
from sparsekit.pruning.criteria.magnitude import Magnitude
from sparsekit.pruning.criteria.magnitude_activation import MagnitudeActivation
from sparsekit.pruning.criteria.magnitude_gradient import MagnitudeGradient
from sparsekit.pruning.criteria.pcas import PCAS
from sparsekit.pruning.criteria.random import Random
from sparsekit.pruning.criteria.random_bernoulli import RandomBernoulli
from sparsekit.pruning.criteria.threshold_magnitude import ThresholdMagnitude
from sparsekit.pruning.criteria.wanda import Wanda

CRITERIA: tuple[type[Criterion], ...] = (
    Random,
    RandomBernoulli,
    Magnitude,
    ThresholdMagnitude,
    LAMP,
    FilterNorm,
    GeometricMedian,
    BatchNormScale,
    PCAS,
    MagnitudeActivation,
    MagnitudeGradient,
    Wanda,
)

__all__ = [
    "CRITERIA",
    "LAMP",
    "PCAS",
    "BatchNormScale",
    "Criterion",
    "FilterNorm",
    "GeometricMedian",
    "Magnitude",
    "MagnitudeActivation",
    "MagnitudeGradient",
    "Random",
    "RandomBernoulli",
    "ThresholdMagnitude",
    "Wanda",
]
