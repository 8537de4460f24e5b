"""Which weights matter."""

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.batchnorm_scale import BatchNormScale
from sparsekit.pruning.criteria.filter_norm import FilterNorm
from sparsekit.pruning.criteria.force import (
    FORCE,
)
from sparsekit.pruning.criteria.geometric_median import GeometricMedian
from sparsekit.pruning.criteria.grasp import (
    GraSP,
)
from sparsekit.pruning.criteria.iterative_snip import (
    IterativeSNIP,
)
from sparsekit.pruning.criteria.lamp import LAMP
from sparsekit.pruning.criteria.magnitude import Magnitude
from sparsekit.pruning.criteria.magnitude_activation import MagnitudeActivation
from sparsekit.pruning.criteria.magnitude_gradient import MagnitudeGradient
from sparsekit.pruning.criteria.obd import (
    OBD,
)
from sparsekit.pruning.criteria.pcas import PCAS
from sparsekit.pruning.criteria.random import Random
from sparsekit.pruning.criteria.random_bernoulli import RandomBernoulli
from sparsekit.pruning.criteria.ria import RIA
from sparsekit.pruning.criteria.skeletonization import (
    Skeletonization,
)
from sparsekit.pruning.criteria.snip import (
    SNIP,
)
from sparsekit.pruning.criteria.synflow import (
    SynFlow,
)
from sparsekit.pruning.criteria.taylor_activation import (
    TaylorActivation,
)
from sparsekit.pruning.criteria.taylor_gate import (
    TaylorGate,
)
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
    TaylorActivation,
    TaylorGate,
    Skeletonization,
    OBD,
    SNIP,
    IterativeSNIP,
    FORCE,
    GraSP,
    SynFlow,
    RIA,
)

__all__ = [
    "CRITERIA",
    "FORCE",
    "LAMP",
    "OBD",
    "PCAS",
    "RIA",
    "SNIP",
    "BatchNormScale",
    "Criterion",
    "FilterNorm",
    "GeometricMedian",
    "GraSP",
    "IterativeSNIP",
    "Magnitude",
    "MagnitudeActivation",
    "MagnitudeGradient",
    "Random",
    "RandomBernoulli",
    "Skeletonization",
    "SynFlow",
    "TaylorActivation",
    "TaylorGate",
    "ThresholdMagnitude",
    "Wanda",
]
