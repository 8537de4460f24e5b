"""Weights and images that tests of convolutions on GPUs share."""

from __future__ import annotations

import torch

from sparsekit.formats import BlockCSR
from sparsekit.mask import Mask
from tests.weights import random_weight


def packed_of(pattern, convolution, outputs, dtype=torch.float32, device="cpu", sparsity=0.6):
    """A packed weight and the dense one."""
    weight = random_weight(convolution.weight_shape(outputs), dtype)
    keep = pattern.select(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)), sparsity)
    packed = BlockCSR.pack(weight.to(device), Mask(keep.to(device), pattern))
    return packed, (weight * keep).to(device)


def images_of(convolution, size, dtype=torch.float32, device="cpu"):
    return random_weight((size[0], convolution.in_channels, *size[1:]), dtype, 1).to(device)
