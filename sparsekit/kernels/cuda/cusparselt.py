"""Two of four by cuSPARSELt, as torch calls it: what the own kernels are to be measured beside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.cuda import extension

WEIGHT_STEP = 16
"""What rows and columns of a 16-bit weight are multiples of."""

BATCH_STEP = 8
"""What the batch is padded to a multiple of."""


def refuses_shape(packed: NMPacked) -> Refusal | None:
    """Return why cuSPARSELt takes no weight of this pattern and shape."""
    if (packed.n, packed.m) != (2, 4):
        return Refusal(f"sparse tensor cores multiply 2 of every 4, not {packed.n} of {packed.m}")
    if packed.rows % WEIGHT_STEP or packed.columns % WEIGHT_STEP:
        return Refusal(f"it needs rows and columns in multiples of {WEIGHT_STEP}, not {packed.rows} x {packed.columns}")
    return None


def _refuses(problem: Problem) -> Refusal | None:
    assert isinstance(problem.packed, NMPacked)
    if not torch.backends.cusparselt.is_available():
        return Refusal("this torch has no cuSPARSELt")
    return refuses_shape(problem.packed) or extension.refuses_operands(problem)


def _bind(packed: Format) -> Multiply:
    """Compress once; torch keeps values and metadata in one tensor of cuSPARSELt's own order."""
    compressed = torch._cslt_compress(packed.unpack())

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        batch = x.shape[0]
        padded = F.pad(x, (0, 0, 0, -batch % BATCH_STEP)).contiguous()
        bias = None if bias is None else bias.contiguous()
        y = torch._cslt_sparse_mm(compressed, padded.T, bias=bias, transpose_result=True)
        return y[:batch]

    return multiply


NM_MM_CUSPARSELT = Kernel("nm_mm_cusparselt", NMPacked, _refuses, _bind)
"""Cost: 2 FLOP per kept weight and token, by the algorithm that cuSPARSELt takes by default."""
