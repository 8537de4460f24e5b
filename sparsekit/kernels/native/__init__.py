"""Kernels that call the compiled extension."""

from sparsekit.kernels.base import GradientKernel, Kernel
from sparsekit.kernels.convolution import ConvKernel
from sparsekit.kernels.native.bitmask import BITMASK_MM_BF16, BITMASK_MV
from sparsekit.kernels.native.block_csr import BLOCK_CSR_GRADIENTS, BLOCK_CSR_MM
from sparsekit.kernels.native.block_half import BLOCK_CSR_MM_BF16
from sparsekit.kernels.native.conv import BLOCK_CSR_CONV, CSR_CONV
from sparsekit.kernels.native.csr import CSR_MM, CSR_MV
from sparsekit.kernels.native.extension import describe, measured_peaks
from sparsekit.kernels.native.int8 import INT8_BITMASK_MV, INT8_BLOCK_CSR_MM, INT8_DENSE_MM
from sparsekit.kernels.native.nm import NM_MV
from sparsekit.kernels.native.widened import widened

NATIVE_KERNELS: tuple[Kernel, ...] = (CSR_MV, CSR_MM, BITMASK_MV, BLOCK_CSR_MM, NM_MV)
NATIVE_HALF_KERNELS: tuple[Kernel, ...] = (BLOCK_CSR_MM_BF16, BITMASK_MM_BF16, *map(widened, NATIVE_KERNELS))
NATIVE_INT8_KERNELS: tuple[Kernel, ...] = (INT8_DENSE_MM, INT8_BITMASK_MV, INT8_BLOCK_CSR_MM)
NATIVE_GRADIENT_KERNELS: tuple[GradientKernel, ...] = (BLOCK_CSR_GRADIENTS,)
NATIVE_CONV_KERNELS: tuple[ConvKernel, ...] = (CSR_CONV, BLOCK_CSR_CONV)

__all__ = [
    "NATIVE_CONV_KERNELS",
    "NATIVE_GRADIENT_KERNELS",
    "NATIVE_HALF_KERNELS",
    "NATIVE_INT8_KERNELS",
    "NATIVE_KERNELS",
    "describe",
    "measured_peaks",
]
