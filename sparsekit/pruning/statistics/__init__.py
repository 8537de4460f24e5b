"""What calibration finds out about layers."""

from sparsekit.pruning.statistics.base import (
    Layer,
    LayerStatistics,
    LossFunction,
    ModelStatistic,
    ModelView,
    Needs,
    Statistic,
    Target,
)
from sparsekit.pruning.statistics.channel_attention import ChannelAttention
from sparsekit.pruning.statistics.gate_gradients import (
    GateGradients,
)
from sparsekit.pruning.statistics.gradient import Gradient
from sparsekit.pruning.statistics.gradient_square import (
    GradientSquare,
)
from sparsekit.pruning.statistics.hessian_diagonal import (
    HessianDiagonal,
)
from sparsekit.pruning.statistics.hessian_gradient import (
    HessianGradient,
)
from sparsekit.pruning.statistics.initial_gradient import (
    InitialGradient,
)
from sparsekit.pruning.statistics.inputs import (
    CrossGram,
    Gram,
    InputMean,
    InputNorm,
    InputStatistic,
    PairedStatistic,
    ResidualGap,
    groups_of,
    input_rows,
    rows_in,
)
from sparsekit.pruning.statistics.norm_scale import NormScale
from sparsekit.pruning.statistics.samples import SampleGradients
from sparsekit.pruning.statistics.synaptic_flow import (
    SynapticFlow,
)

__all__ = [
    "ChannelAttention",
    "CrossGram",
    "GateGradients",
    "Gradient",
    "GradientSquare",
    "Gram",
    "HessianDiagonal",
    "HessianGradient",
    "InitialGradient",
    "InputMean",
    "InputNorm",
    "InputStatistic",
    "Layer",
    "LayerStatistics",
    "LossFunction",
    "ModelStatistic",
    "ModelView",
    "Needs",
    "NormScale",
    "PairedStatistic",
    "ResidualGap",
    "SampleGradients",
    "Statistic",
    "SynapticFlow",
    "Target",
    "groups_of",
    "input_rows",
    "rows_in",
]
