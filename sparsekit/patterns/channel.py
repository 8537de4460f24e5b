"""Whole input channels."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.patterns.slices import Slices


@dataclass(frozen=True)
class Channel(Slices):
    """All weights that read an input stay or go together: a column of a Linear, an input channel of a Conv2d.

    A grouped convolution loses the same channel of each of its groups; a depthwise one has a single unit.

    Source: He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", for the unit.
    """

    @property
    def run(self) -> tuple[int, int]:
        """One input channel."""
        return 1, 1
