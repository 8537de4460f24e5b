"""What patterns share that are chosen block by block, and fix how much of each block goes."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from sparsekit.patterns.base import FixedPattern, Remainder, as_matrix


class BlockwiseNM(FixedPattern):
    """Each row of a block of ``m`` columns keeps ``n``; which, depends on the whole block. Units are weights."""

    n: int
    m: int

    @property
    @abstractmethod
    def height(self) -> int:
        """Rows of a block."""

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a block."""
        return self.m

    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return ``1 - n / m``."""
        return 1.0 - self.n / self.m

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Return the trailing rows and columns that fill no whole block."""
        return Remainder(shape[0] % self.height, math.prod(shape[1:]) % self.m)

    def pool(self, scores: Tensor) -> Tensor:
        """Return the part of the matrix view that whole blocks cover, in float64 so that ties stay ties."""
        matrix = as_matrix(scores)
        high, wide = matrix.shape[0] - matrix.shape[0] % self.height, matrix.shape[1] - matrix.shape[1] % self.m
        return matrix[:high, :wide].double()

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Put the choice where it belongs; trailing rows and columns are kept."""
        keep = units.new_ones(shape, dtype=torch.bool)
        as_matrix(keep)[: units.shape[0], : units.shape[1]] = units
        return keep
