"""Convolutions in Triton, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.formats import BlockCSR
from sparsekit.kernels import Convolution, ConvProblem
from sparsekit.kernels.convolution import ACTIVATIONS
from sparsekit.kernels.triton.conv import BLOCK_CSR_CONV
from sparsekit.mask import Mask
from sparsekit.patterns import AllTaps, Block, KernelSlice, PerTap
from tests.numerics import assert_convolution
from tests.weights import random_weight

PROBLEMS = {
    "1x1": (Convolution(32, (1, 1)), 32, (1, 5, 7)),
    "1x1, 3 images, stride 2": (Convolution(40, (1, 1), (2, 2)), 20, (3, 5, 4)),
    "3x3": (Convolution(32, (3, 3), (1, 1), (1, 1, 1, 1)), 48, (1, 6, 5)),
    "3x3, 3 images": (Convolution(24, (3, 3), (1, 1), (1, 1, 1, 1)), 16, (3, 4, 5)),
    "3x3, stride 2": (Convolution(17, (3, 3), (2, 2), (1, 1, 1, 1)), 33, (1, 7, 9)),
    "3x3, stride 2 x 1": (Convolution(16, (3, 3), (2, 1)), 16, (1, 7, 6)),
    "3x3, dilation 2 x 3": (Convolution(16, (3, 3), (1, 2), (2, 2, 3, 3), (2, 3)), 16, (1, 6, 9)),
    "3x3, asymmetric": (Convolution(16, (3, 3), (1, 1), (0, 2, 3, 0)), 16, (1, 5, 6)),
    "3x3, more padding than image": (Convolution(16, (3, 3), (1, 1), (3, 4, 5, 3)), 16, (1, 2, 2)),
    "5x5, smaller than its reach": (Convolution(16, (5, 5), (1, 1), (2, 2, 2, 2)), 16, (2, 3, 3)),
    "1x3": (Convolution(16, (1, 3), (1, 1), (0, 0, 1, 1)), 16, (1, 3, 6)),
    "4x2": (Convolution(18, (4, 2), (1, 1), (1, 2, 0, 1)), 24, (1, 6, 6)),
    "one pixel": (Convolution(16, (3, 3), (1, 1), (1, 1, 1, 1)), 16, (1, 1, 1)),
}
PATTERNS = (PerTap(Block(16, 16)), AllTaps(Block(16, 8)), Block(16, 12))


def packed_of(pattern, convolution, outputs, dtype=torch.float32, device="cpu", sparsity=0.6):
    """A packed weight and the dense one."""
    weight = random_weight(convolution.weight_shape(outputs), dtype)
    mask = Mask(pattern.select(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)), sparsity), pattern)
    packed = BlockCSR.pack(weight.to(device), Mask(mask.keep.to(device), pattern))
    return packed, (weight * mask.keep).to(device)


def images_of(convolution, size, dtype, device):
    return random_weight((size[0], convolution.in_channels, *size[1:]), dtype, 1).to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_convolves(name, dtype, device):
    convolution, outputs, size = PROBLEMS[name]
    for pattern in PATTERNS if dtype == torch.float32 else PATTERNS[:1]:
        packed, weight = packed_of(pattern, convolution, outputs, dtype, device)
        assert BLOCK_CSR_CONV.refuses(ConvProblem(packed, convolution, size)) is None
        x, bias = images_of(convolution, size, dtype, device), random_weight((outputs,), dtype, 2).to(device)
        y = BLOCK_CSR_CONV.bind(packed, convolution)(x, bias)
        assert_convolution(y, x, weight, convolution, bias)
        assert y.is_contiguous(memory_format=torch.channels_last)
