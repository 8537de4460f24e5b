"""Kernels in CUDA C++, for what Triton cannot reach: the sparse tensor cores."""

from sparsekit.kernels.base import Kernel
from sparsekit.kernels.cuda.cusparselt import NM_MM_CUSPARSELT
from sparsekit.kernels.cuda.nm import NM_MM_CUDA, NM_MV_CUDA

CUDA_KERNELS: tuple[Kernel, ...] = (NM_MM_CUDA, NM_MV_CUDA, NM_MM_CUSPARSELT)

__all__ = ["CUDA_KERNELS"]
