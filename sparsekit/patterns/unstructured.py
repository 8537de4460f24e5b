"""Any set of weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import Pattern


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Every set of kept weights is legal; the unit is one weight."""

    def pool(self, scores: Tensor) -> Tensor:
        """Return ``scores`` as they are: a unit is one weight."""
        return scores

    def spread(self, units: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return ``units`` as they are: a unit is one weight."""
        return units

    def admits(self, keep: Tensor) -> bool:
        """Return True: every set is legal."""
        return True
