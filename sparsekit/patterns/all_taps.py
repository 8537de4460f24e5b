"""A pattern of channels that all taps share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.patterns.base import Pattern
from sparsekit.patterns.over_channels import OverChannels
from sparsekit.patterns.taps import as_kernels, taps_of


@dataclass(frozen=True)
class AllTaps(OverChannels):
    """Whole kernels of a convolution stay or go, by a pattern on the matrix of outputs by input channels.

    A kernel's score is the sum over its taps. ``AllTaps(NM(2, 4))`` keeps 2 of every 4 consecutive kernels of a filter,
    ``AllTaps(Block(16, 16))`` removes 16 outputs by 16 input channels, and ``AllTaps(Unstructured())`` is
    :class:`KernelSlice`. Weights without kernels, such as those of a Linear, are refused.

    Args:
        pattern: of a matrix.

    Raises:
        PatternError: the pattern is one of kernels itself.

    Source: Gray, Radford, Kingma 2017, "GPU Kernels for Block-Sparse Weights", for blocks of channels; Anwar, Hwang,
    Sung 2015, "Structured Pruning of Deep Convolutional Neural Networks", for whole kernels.
    """

    pattern: Pattern

    def block_sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the sides of the pattern's blocks, or of a kernel, with a column per tap."""
        rows, columns = self.pattern.block_sides(shape[:2]) or (1, 1)
        return rows, columns * max(1, taps_of(shape))

    def as_seen(self, scores: Tensor) -> Tensor:
        """Return the sum of the scores of each kernel, ``(out, in)``, in float64 so that ties stay ties."""
        return as_kernels(scores).double().sum(dim=1).reshape(scores.shape[:2])

    def as_weight(self, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Repeat each kernel's choice over its taps."""
        return seen.bool().reshape(-1, 1).repeat_interleave(taps_of(shape), dim=1).reshape(shape)

    def shuffle(self, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Shuffle kernels as the pattern does; see :meth:`Pattern.shuffle`."""
        return self.as_weight(self.pattern.shuffle(self.as_seen(keep) > 0, generator), tuple(keep.shape))

    def admits(self, keep: Tensor) -> bool:
        """Whether every kernel is kept or removed as a whole, and the pattern admits the kept ones."""
        kernels = as_kernels(keep)
        whole = bool((kernels.all(dim=1) == kernels.any(dim=1)).all())
        return whole and self.pattern.admits(self.as_seen(keep) > 0)
