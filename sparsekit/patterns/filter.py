"""Whole output rows."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.patterns.slices import Slices


@dataclass(frozen=True)
class Filter(Slices):
    """All weights of an output stay or go together: a row of a Linear, a filter of a Conv2d. Biases are not touched.

    Source: Li, Kadav, Durdanovic, Samet, Graf 2016, "Pruning Filters for Efficient ConvNets".
    """

    @property
    def run(self) -> tuple[int, int]:
        """One output row."""
        return 0, 1
