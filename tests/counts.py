"""How many weights a pattern has to keep, counted from its definition and from no code of its own."""

import math

from sparsekit.patterns import (
    NM,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.patterns.base import removed


def layout(pattern, shape):
    """Unit rows, unit columns and weights per unit of a pattern whose sparsity the user chooses."""
    out, channels, taps = shape[0], shape[1], math.prod(shape[2:])
    if isinstance(pattern, (PerTap, AllTaps)):
        high, wide, size = layout(pattern.pattern, (out, channels))
        return (high, wide * taps, size) if isinstance(pattern, PerTap) else (high, wide, size * taps)
    if isinstance(pattern, Unstructured):
        return out, channels * taps, 1
    if isinstance(pattern, Block):
        return out // pattern.rows, channels * taps // pattern.columns, pattern.rows * pattern.columns
    if isinstance(pattern, (Filter, Channel)):
        return (out, 1, channels * taps) if isinstance(pattern, Filter) else (1, channels, out * taps)
    if isinstance(pattern, Head):
        heads = (out, channels)[pattern.axis] // pattern.dim
        return (1, heads, out * taps * pattern.dim) if pattern.axis else (heads, 1, channels * taps * pattern.dim)
    assert isinstance(pattern, KernelSlice), f"no definition of {pattern} here"
    return out, channels, taps


def kept_of_fixed(pattern, shape):
    """Weights that a pattern with a sparsity of its own keeps."""
    out, taps = shape[0], math.prod(shape[2:])
    columns, kernels = math.prod(shape[1:]), math.prod(shape[:2])
    if isinstance(pattern, (PerTap, AllTaps)):
        return taps * kept_of_fixed(pattern.pattern, shape[:2])
    if isinstance(pattern, NM):
        return out * (columns // pattern.m * pattern.n + columns % pattern.m)
    if isinstance(pattern, (TransposableNM, VNM)):
        side = pattern.m if isinstance(pattern, TransposableNM) else pattern.v
        blocks = (out // side) * (columns // pattern.m)
        return out * columns - blocks * side * (pattern.m - pattern.n)
    if isinstance(pattern, KernelPattern):
        return kernels * min(pattern.n, taps)
    if isinstance(pattern, OnePerKernel):
        return kernels
    assert isinstance(pattern, StridedKernel), f"no definition of {pattern} here"
    return kernels * max(1, taps // pattern.stride)


def kept_count(pattern, shape, sparsity, by_row=False):
    """Weights that stay; a single unit per row has nothing in its row to be compared with."""
    if pattern.fixes_sparsity:
        return kept_of_fixed(pattern, shape)
    high, wide, per_unit = layout(pattern, shape)
    gone = high * removed(sparsity, wide) if by_row and wide > 1 else removed(sparsity, high * wide)
    return math.prod(shape) - gone * per_unit
