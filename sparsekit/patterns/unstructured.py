"""Any set of weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import Pattern, as_matrix


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Every set of kept weights is legal; the unit is one weight."""

    def pool(self, scores: Tensor) -> Tensor:
        """Return the matrix view of ``scores``: a unit is one weight."""
        return as_matrix(scores)

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``units`` in ``shape``: a unit is one weight."""
        return units.reshape(shape)

    def admits(self, keep: Tensor) -> bool:
        """Return True: every set is legal."""
        return True
