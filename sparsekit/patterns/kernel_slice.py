"""Whole kernels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import Pattern
from sparsekit.patterns.taps import as_kernels, taps_of, without_kernels


@dataclass(frozen=True)
class KernelSlice(Pattern):
    """The kernel between an input and an output channel of a convolution stays or goes as a whole.

    A 1 x 1 kernel is a unit of one weight. Weights without kernels, such as those of a Linear, are refused.

    Source: Anwar, Hwang, Sung 2015, "Structured Pruning of Deep Convolutional Neural Networks", kernel-wise sparsity.
    """

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights without kernels."""
        return without_kernels(shape)

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a kernel."""
        return max(1, taps_of(shape))

    def block_sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the sides of a kernel in the matrix: one row, a column per tap."""
        return 1, max(1, taps_of(shape))

    def pool(self, scores: Tensor) -> Tensor:
        """Return the sum of the scores of each kernel, ``(out, in)``, in float64 so that ties stay ties."""
        return as_kernels(scores).double().sum(dim=1).reshape(scores.shape[:2])

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Repeat each kernel's choice over its taps."""
        return units.reshape(-1, 1).repeat_interleave(taps_of(shape), dim=1).reshape(shape)

    def admits(self, keep: Tensor) -> bool:
        """Whether every kernel is kept or removed as a whole."""
        kernels = as_kernels(keep)
        return bool((kernels.all(dim=1) == kernels.any(dim=1)).all())
