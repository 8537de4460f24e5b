"""Patterns of matrices, applied to the channels of a convolution."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import Pattern, Remainder
from sparsekit.patterns.taps import taps_of, without_kernels


class OverChannels(Pattern):
    """Another pattern, which sees a matrix of a row per output and columns made from the input channels.

    Weights without kernels, such as those of a Linear, are refused: there the other pattern is meant.

    Raises:
        PatternError: the other pattern cannot have a matrix, or no pattern was given.
    """

    pattern: Pattern

    def __post_init__(self) -> None:
        given = self.pattern
        if not isinstance(given, Pattern) or given.refuses((1, 1)):
            kind = type(self).__name__
            raise PatternError(f"{kind}: expected a pattern of a matrix such as NM(2, 4) or Block(16, 16), got {given}")

    def __str__(self) -> str:
        """Write it as the user does: ``PerTap(Block(16, 16))``."""
        return f"{type(self).__name__}({self.pattern})"

    @property
    def fixes_sparsity(self) -> bool:
        """Whether the other pattern does."""
        return self.pattern.fixes_sparsity

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights without kernels."""
        return without_kernels(shape)

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of as many channels as the other pattern has to choose together."""
        return self.pattern.span(shape[:2]) * max(1, taps_of(shape))

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Return the rows, and the columns of the channels, that the other pattern leaves over."""
        left = self.pattern.remainder(shape[:2])
        return Remainder(left.rows, left.columns * taps_of(shape))

    def sparsity(self, requested: float | None, shape: tuple[int, ...]) -> float:
        """Return what the other pattern fixes, or else ``requested``; see :meth:`Pattern.sparsity`."""
        if self.fixes_sparsity:
            return self.pattern.sparsity(requested, shape[:2])
        return super().sparsity(requested, shape)

    def select(self, scores: Tensor, sparsity: float | None = None, *, by_row: bool = False) -> Tensor:
        """Choose what stays; see :meth:`Pattern.select`."""
        return super().select(scores, sparsity, by_row=by_row)

    @abstractmethod
    def as_seen(self, scores: Tensor) -> Tensor:
        """Return the matrix that the other pattern sees; a column is a sum of ``scores`` over some taps."""

    @abstractmethod
    def as_weight(self, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the bool mask of ``shape`` whose matrix is ``seen``, contiguous; what it does not show is kept."""

    def pool(self, scores: Tensor) -> Tensor:
        """Return the score of each unit of the other pattern."""
        return self.pattern.pool(self.as_seen(scores))

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Give each weight the choice of its unit."""
        seen = self.as_seen(torch.empty(shape, device="meta"))
        return self.as_weight(self.pattern.spread(units, tuple(seen.shape)), shape)

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """Choose among ``units`` as the other pattern does."""
        return self.pattern.keep(units, gone, by_row=by_row)
