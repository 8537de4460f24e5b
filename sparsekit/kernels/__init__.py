"""Code that runs packed weights. The order of the tuple is the order of preference."""

from sparsekit.kernels.base import Kernel, Multiply, Problem, choose
from sparsekit.kernels.reference import REFERENCE_KERNELS

KERNELS: tuple[Kernel, ...] = REFERENCE_KERNELS

__all__ = ["KERNELS", "REFERENCE_KERNELS", "Kernel", "Multiply", "Problem", "choose"]
