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
from sparsekit.pruning.statistics.gradient import Gradient
from sparsekit.pruning.statistics.inputs import Gram, InputMean, InputNorm, InputStatistic, groups_of, input_rows
from sparsekit.pruning.statistics.norm_scale import NormScale
from sparsekit.pruning.statistics.samples import SampleGradients

__all__ = [
    "ChannelAttention",
    "Gradient",
    "Gram",
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
    "SampleGradients",
    "Statistic",
    "Target",
    "groups_of",
    "input_rows",
]
