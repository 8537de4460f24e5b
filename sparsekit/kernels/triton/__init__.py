"""Kernels written in Triton, for NVIDIA GPUs from compute capability 8.0 on.

``programs/`` holds what runs on the GPU, and nothing else imports Triton: each file beside it says what its program
refuses, lays the weight out, chooses a tile and launches. ``tuned/`` holds the tiles that were the fastest, by GPU.
With ``TRITON_INTERPRET=1`` in the environment a bound kernel runs on CPU tensors too, slowly, for tests and debuggers.
"""

from sparsekit.kernels.base import GradientKernel, Kernel
from sparsekit.kernels.convolution import ConvKernel
from sparsekit.kernels.triton.bitmask import BITMASK_MM, BITMASK_MV
from sparsekit.kernels.triton.block_csr import BLOCK_CSR_MM
from sparsekit.kernels.triton.block_csr_grad import BLOCK_CSR_GRADIENTS
from sparsekit.kernels.triton.conv import BLOCK_CSR_CONV
from sparsekit.kernels.triton.delta import DELTA_MV
from sparsekit.kernels.triton.nm import NM_MM, NM_MV

TRITON_KERNELS: tuple[Kernel, ...] = (BLOCK_CSR_MM, NM_MV, NM_MM, DELTA_MV, BITMASK_MV, BITMASK_MM)
TRITON_GRADIENT_KERNELS: tuple[GradientKernel, ...] = (BLOCK_CSR_GRADIENTS,)
TRITON_CONV_KERNELS: tuple[ConvKernel, ...] = (BLOCK_CSR_CONV,)

__all__ = ["TRITON_CONV_KERNELS", "TRITON_GRADIENT_KERNELS", "TRITON_KERNELS"]
