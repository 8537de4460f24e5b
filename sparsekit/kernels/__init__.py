"""Code that runs packed weights.

The order of the tuple is the order of preference where nothing was measured: native kernels, then the reference, which
for the dense format is what ``nn.Linear`` does, then the prepacked dense ones, which only a measurement chooses.
"""

from sparsekit.kernels.base import GradientKernel, Gradients, Kernel, Multiply, Problem, choose
from sparsekit.kernels.native import NATIVE_GRADIENT_KERNELS, NATIVE_KERNELS
from sparsekit.kernels.prepacked import PREPACKED_KERNELS
from sparsekit.kernels.reference import REFERENCE_GRADIENT_KERNELS, REFERENCE_KERNELS

KERNELS: tuple[Kernel, ...] = (*NATIVE_KERNELS, *REFERENCE_KERNELS, *PREPACKED_KERNELS)
GRADIENT_KERNELS: tuple[GradientKernel, ...] = (*NATIVE_GRADIENT_KERNELS, *REFERENCE_GRADIENT_KERNELS)

__all__ = [
    "GRADIENT_KERNELS",
    "KERNELS",
    "REFERENCE_GRADIENT_KERNELS",
    "REFERENCE_KERNELS",
    "GradientKernel",
    "Gradients",
    "Kernel",
    "Multiply",
    "Problem",
    "choose",
]
