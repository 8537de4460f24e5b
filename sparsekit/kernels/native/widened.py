"""bfloat16 and float16 for formats and processors without kernels of their own: by a native kernel in fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.formats import CSR, Bitmask, NMPacked
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.native import extension

HALVES = (torch.bfloat16, torch.float16)
BY_PARTS = (CSR, Bitmask, NMPacked)
"""Formats whose native weights in fp32 convert bfloat16 themselves: by parts, while the caches hold them."""


@dataclass(frozen=True)
class _InFp32(Problem):
    """The problem that is left when all operands are converted."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32


def widened(kernel: Kernel) -> Kernel:
    """Return ``kernel``, which runs fp32, for weights of 16 bits.

    The weight is converted once, when it is bound, the other operands in each call; the result is rounded once.
    """

    def refuses(problem: Problem) -> Refusal | None:
        narrow = extension.refuses(problem, *HALVES)
        return narrow or kernel.refuses(_InFp32(problem.packed, problem.batch, problem.threads))

    def bind(packed: Format, activation: str = "none") -> Multiply:
        dtype = packed.values.dtype
        parts = extension.laid_out(packed).tensors()
        wide = {name: part.float() if part.is_floating_point() else part for name, part in parts.items()}
        multiply = kernel.bind(packed.from_parts(wide, packed.integers()), activation)
        if dtype is torch.bfloat16 and isinstance(packed, BY_PARTS):
            return multiply

        def run(x: Tensor, bias: Tensor | None, *residual: Tensor | None) -> Tensor:
            return multiply(x.float(), _wide(bias), *map(_wide, residual)).to(dtype)

        return run

    return Kernel(f"{kernel.name}_half", kernel.format, refuses, bind, kernel.activations, kernel.adds_residual)


def _wide(operand: Tensor | None) -> Tensor | None:
    return None if operand is None else operand.float()
