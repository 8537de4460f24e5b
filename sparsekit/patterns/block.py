"""Rectangles of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import Pattern, Remainder, as_matrix, tiles


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of ``rows`` outputs by ``columns`` inputs stay or go as a whole.

    Where the matrix does not divide, the trailing rows and columns that fill no whole block are kept dense.

    Raises:
        PatternError: a side is smaller than 1.

    Source: Gray, Radford, Kingma 2017, "GPU Kernels for Block-Sparse Weights".
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side >= 1 for side in (self.rows, self.columns)):
            raise PatternError(f"Block: expected integer sides of at least 1, got {self.rows} x {self.columns}")

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a block."""
        return self.columns

    def block_sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the sides of a block."""
        return self.rows, self.columns

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Return the trailing rows and columns that fill no whole block."""
        return Remainder(shape[0] % self.rows, torch.Size(shape[1:]).numel() % self.columns)

    def pool(self, scores: Tensor) -> Tensor:
        """Return the sum of the scores of each whole block, in float64 so that ties stay ties."""
        return tiles(as_matrix(scores).double(), self.rows, self.columns).sum(dim=(1, 3))

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Repeat each block's choice over its weights; trailing rows and columns are kept."""
        keep = units.new_ones(shape, dtype=torch.bool)
        whole = units.repeat_interleave(self.rows, dim=0).repeat_interleave(self.columns, dim=1)
        as_matrix(keep)[: whole.shape[0], : whole.shape[1]] = whole
        return keep

    def admits(self, keep: Tensor) -> bool:
        """Whether every whole block is kept or removed as a whole."""
        blocks = tiles(as_matrix(keep).contiguous().view(torch.uint8), self.rows, self.columns)
        # The rows of a block first, which lie along contiguous memory. No block at all has no extremes.
        return blocks.numel() == 0 or torch.equal(blocks.amin(dim=1).amin(dim=2), blocks.amax(dim=1).amax(dim=2))
