"""Unstructured weights in Triton, bitmask and delta: products against float64, and what the compiler makes of it."""

import pytest
import torch

from sparsekit.kernels import Problem
from sparsekit.kernels.triton.bitmask import BITMASK_MM, BITMASK_MV
from sparsekit.kernels.triton.delta import DELTA_MV
from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

KERNELS = pytest.mark.parametrize("kernel", [DELTA_MV, BITMASK_MV, BITMASK_MM], ids=lambda k: k.name)


def packed_of(kernel, shape, dtype, device, sparsity=0.7):
    mask, weight = random_mask(shape, Unstructured(), sparsity), random_weight(shape, dtype)
    packed = kernel.format.pack(weight.to(device), Mask(mask.keep.to(device), mask.pattern))
    return packed, (weight * mask.keep).to(device)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "batch"), [((1, 64), 1), ((7, 90), 3), ((70, 1040), 4), ((70, 35), 2)])
def test_multiplies(kernel, shape, batch, dtype, device):
    packed, weight = packed_of(kernel, shape, dtype, device)
    assert kernel.refuses(Problem(packed, batch)) is None
    x, bias = random_weight((batch, shape[1]), dtype, 1).to(device), random_weight((shape[0],), dtype, 2).to(device)
    assert_product(kernel.bind(packed)(x, bias), x, weight, bias)
