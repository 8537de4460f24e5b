"""N:M in Triton: products against float64, and what the compiler makes of it."""

import pytest
import torch

from sparsekit.formats import NMPacked
from sparsekit.kernels import Problem
from sparsekit.kernels.triton.nm import NM_MM, NM_MV
from sparsekit.mask import Mask
from sparsekit.patterns import NM
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

KERNELS = pytest.mark.parametrize("kernel", [NM_MV, NM_MM], ids=lambda k: k.name)


def packed_of(shape, pattern, dtype, device, sparsity=0.1):
    mask, weight = random_mask(shape, pattern, sparsity), random_weight(shape, dtype)
    packed = NMPacked.pack(weight.to(device), Mask(mask.keep.to(device), mask.pattern))
    return packed, (weight * mask.keep).to(device)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "batch"), [((1, 64), 1), ((7, 90), 3), ((70, 1040), 4), ((70, 35), 2)])
def test_multiplies(kernel, shape, batch, dtype, device):
    packed, weight = packed_of(shape, NM(2, 4), dtype, device)
    assert kernel.refuses(Problem(packed, batch)) is None
    x, bias = random_weight((batch, shape[1]), dtype, 1).to(device), random_weight((shape[0],), dtype, 2).to(device)
    assert_product(kernel.bind(packed)(x, bias), x, weight, bias)
