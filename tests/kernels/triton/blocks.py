"""Block CSR weights that the tests of Triton's kernels share."""

from __future__ import annotations

from dataclasses import replace

import torch

from sparsekit.formats import BlockCSR
from sparsekit.mask import Mask
from sparsekit.patterns import Block
from tests.weights import random_mask, random_weight


def packed_of(shape, sides, dtype, device, sparsity=0.5):
    """A packed weight of random blocks, and the same weight dense."""
    mask, weight = random_mask(shape, Block(*sides), sparsity), random_weight(shape, dtype)
    packed = BlockCSR.pack(weight.to(device), Mask(mask.keep.to(device), mask.pattern))
    return packed, (weight * mask.keep).to(device)


def uneven(shape, sides, dtype, device):
    """A weight whose first block row is full, whose second is empty, and whose others keep half of their blocks."""
    keep = random_mask(shape, Block(*sides), 0.5).keep
    keep[: sides[0]] = True
    keep[sides[0] : 2 * sides[0]] = False
    weight = random_weight(shape, dtype)
    packed = BlockCSR.pack(weight.to(device), Mask(keep.to(device), Block(*sides)))
    return packed, (weight * keep).to(device)


def long_offsets(packed):
    """The same weight with offsets of 64 bits."""
    return replace(packed, block_offsets=packed.block_offsets.long())


def large(sides, dtype=torch.bfloat16, side=256):
    """A full weight whose sizes divide as large ones do, on the CPU, to be compiled for."""
    return packed_of((side, side), sides, dtype, "cpu", 0.0)[0]
