"""Norms of the units of a pattern, differentiable where they are zero."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.patterns import Pattern
from sparsekit.training.penalties.numerics import wide


def squares(pattern: Pattern, weight: Tensor) -> Tensor:
    """Return the sum of squares of each unit, ``(units,)``; each weight is one where a pattern fixes its sparsity."""
    found = wide(weight).square()
    return (found if pattern.fixes_sparsity else pattern.pool(found)).reshape(-1)


def root(values: Tensor) -> Tensor:
    """Return the square root of ``values``, which are at least 0; its slope at 0 counts as 0."""
    positive = values > 0
    return torch.where(positive, values, 1.0).sqrt() * positive


def unit_size(pattern: Pattern, shape: tuple[int, ...]) -> int:
    """Return the weights per unit; 1 where a pattern fixes its sparsity, and all where no unit fits into the weight."""
    if pattern.fixes_sparsity:
        return 1
    high, broad = pattern.grid(shape)
    left = pattern.remainder(shape)
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    return (rows - left.rows) * (columns - left.columns) // (high * broad) if high * broad else max(1, rows * columns)


def small(norms: Tensor, threshold: float) -> int:
    """Count the ``norms`` of at most ``threshold``; never all of them, so that a layer keeps its largest unit."""
    return max(0, min(int((norms <= threshold).sum()), norms.numel() - 1))
