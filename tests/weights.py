"""Weights and masks that tests of formats, kernels and layers share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Pattern, Unstructured

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PATTERNS: tuple[Pattern, ...] = (
    *(Unstructured(), NM(2, 4), NM(1, 1), NM(1, 2), NM(4, 8), NM(3, 5), NM(2, 16)),
    *(Block(16, 16), Block(4, 1), Block(1, 8), Block(3, 5)),
)
SPECIAL = (0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"))
INTEGERS = {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two floating tensors agree in shape, dtype and every bit."""
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(INTEGERS[a.dtype]), b.contiguous().view(INTEGERS[b.dtype])
    )


def random_mask(shape: tuple[int, int], pattern: Pattern, sparsity: float, seed: int = 0) -> Mask:
    """A mask of ``pattern``; a sparsity of 1 empties it, and some legal groups keep less than they may."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(shape, generator=generator)
    if isinstance(pattern, NM):
        keep = pattern.select(scores) & (torch.rand(shape, generator=generator) >= sparsity)
    elif sparsity >= 1.0:
        keep = pattern.spread(torch.zeros_like(pattern.pool(scores), dtype=torch.bool), shape)
    else:
        keep = pattern.select(scores, sparsity)
    return Mask(keep, pattern)


def random_weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Ordinary weights."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def hard_weight(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Weights of which a third are zeros of both signs, NaN, infinities and subnormals."""
    generator = torch.Generator().manual_seed(seed)
    weight = random_weight(shape, dtype, seed)
    special = torch.tensor((*SPECIAL, torch.finfo(dtype).tiny / 2, torch.finfo(dtype).max), dtype=dtype)
    chosen = special[torch.randint(len(special), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.33, chosen, weight)


shapes = st.tuples(st.integers(0, 40), st.integers(0, 70))
sparsities = st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])
seeds = st.integers(0, 2**16)
