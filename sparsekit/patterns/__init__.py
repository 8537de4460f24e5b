"""Which sets of kept weights are legal."""

from sparsekit.patterns.all_taps import AllTaps
from sparsekit.patterns.base import FixedPattern, Pattern, Remainder
from sparsekit.patterns.block import Block
from sparsekit.patterns.channel import Channel
from sparsekit.patterns.filter import Filter
from sparsekit.patterns.head import Head
from sparsekit.patterns.kernel_pattern import KernelPattern
from sparsekit.patterns.kernel_slice import KernelSlice
from sparsekit.patterns.nm import NM
from sparsekit.patterns.one_per_kernel import OnePerKernel
from sparsekit.patterns.per_tap import PerTap
from sparsekit.patterns.strided_kernel import StridedKernel
from sparsekit.patterns.transposable_nm import TransposableNM
from sparsekit.patterns.unstructured import Unstructured
from sparsekit.patterns.vnm import VNM

PATTERNS: tuple[type[Pattern], ...] = (
    Unstructured,
    NM,
    TransposableNM,
    VNM,
    Block,
    Filter,
    Channel,
    Head,
    KernelSlice,
    KernelPattern,
    OnePerKernel,
    StridedKernel,
    PerTap,
    AllTaps,
)

__all__ = [
    "NM",
    "PATTERNS",
    "VNM",
    "AllTaps",
    "Block",
    "Channel",
    "Filter",
    "FixedPattern",
    "Head",
    "KernelPattern",
    "KernelSlice",
    "OnePerKernel",
    "Pattern",
    "PerTap",
    "Remainder",
    "StridedKernel",
    "TransposableNM",
    "Unstructured",
]
