"""Attention heads."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.errors import PatternError
from sparsekit.patterns.slices import Slices


@dataclass(frozen=True)
class Head(Slices):
    """Groups of ``dim`` consecutive outputs, or inputs, stay or go as a whole.

    A weight that holds queries, keys and values one below the other has three times as many units as heads. What fills
    no whole head at the end is kept dense.

    Args:
        dim: outputs or inputs per head.
        axis: 0 groups output rows (query, key and value projections), 1 inputs (the output projection).

    Raises:
        PatternError: ``dim`` is smaller than 1, or ``axis`` neither 0 nor 1.

    Source: Michel, Levy, Neubig 2019, "Are Sixteen Heads Really Better than One?", for the unit.
    """

    dim: int
    axis: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.dim, int) and self.dim >= 1 and self.axis in (0, 1)):
            raise PatternError(
                f"Head: expected dim >= 1 and an axis of 0 (outputs) or 1 (inputs), got {self.dim} and {self.axis}"
            )

    @property
    def run(self) -> tuple[int, int]:
        """``dim`` rows or channels."""
        return self.axis, self.dim
