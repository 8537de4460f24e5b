"""Code that runs packed weights.

The order of the tuple is the order of preference where nothing was measured: those for GPUs, native ones, then the
reference, which for the dense format is what ``nn.Linear`` and ``nn.Conv2d`` do, then the prepacked dense ones, which
only a measurement chooses. Those of 8-bit weights stand behind, by the same order.
"""

from sparsekit.kernels.base import GradientKernel, Gradients, Kernel, Multiply, Problem, choose
from sparsekit.kernels.conv_prepacked import PREPACKED_CONV_KERNELS
from sparsekit.kernels.conv_reference import REFERENCE_CONV_KERNELS
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem
from sparsekit.kernels.cuda import CUDA_KERNELS
from sparsekit.kernels.native import (
    NATIVE_CONV_KERNELS,
    NATIVE_GRADIENT_KERNELS,
    NATIVE_HALF_KERNELS,
    NATIVE_INT8_KERNELS,
    NATIVE_KERNELS,
)
from sparsekit.kernels.prepacked import PREPACKED_KERNELS
from sparsekit.kernels.quantized import QUANTIZED_GRADIENT_KERNELS, QUANTIZED_REFERENCE_KERNELS
from sparsekit.kernels.reference import REFERENCE_GRADIENT_KERNELS, REFERENCE_KERNELS
from sparsekit.kernels.triton import TRITON_CONV_KERNELS, TRITON_GRADIENT_KERNELS, TRITON_KERNELS

KERNELS: tuple[Kernel, ...] = (
    *CUDA_KERNELS,
    *TRITON_KERNELS,
    *NATIVE_KERNELS,
    *NATIVE_HALF_KERNELS,
    *REFERENCE_KERNELS,
    *PREPACKED_KERNELS,
    *NATIVE_INT8_KERNELS,
    *QUANTIZED_REFERENCE_KERNELS,
)
GRADIENT_KERNELS: tuple[GradientKernel, ...] = (
    *TRITON_GRADIENT_KERNELS,
    *NATIVE_GRADIENT_KERNELS,
    *QUANTIZED_GRADIENT_KERNELS,
    *REFERENCE_GRADIENT_KERNELS,
)
CONV_KERNELS: tuple[ConvKernel, ...] = (
    *TRITON_CONV_KERNELS,
    *NATIVE_CONV_KERNELS,
    *REFERENCE_CONV_KERNELS,
    *PREPACKED_CONV_KERNELS,
)

__all__ = [
    "CONV_KERNELS",
    "GRADIENT_KERNELS",
    "KERNELS",
    "QUANTIZED_REFERENCE_KERNELS",
    "REFERENCE_CONV_KERNELS",
    "REFERENCE_GRADIENT_KERNELS",
    "REFERENCE_KERNELS",
    "ConvKernel",
    "ConvProblem",
    "Convolution",
    "GradientKernel",
    "Gradients",
    "Kernel",
    "Multiply",
    "Problem",
    "choose",
]
