"""Runs of output rows or input channels."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor

from sparsekit.patterns.base import Pattern, Remainder, as_matrix


class Slices(Pattern):
    """Runs of consecutive output rows, or of consecutive input channels, stay or go as a whole.

    What fills no whole run at the end is kept dense.
    """

    @property
    @abstractmethod
    def run(self) -> tuple[int, int]:
        """``(axis, length)`` of a run: axis 0 counts output rows, 1 input channels."""

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights that have no inputs."""
        return None if len(shape) >= 2 else f"needs a weight (out, in, ...), got shape {shape}"

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a run of channels; a run of rows has all of them."""
        axis, length = self.run
        return max(1, length * math.prod(shape[2:]) if axis else math.prod(shape[1:]))

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Return the trailing rows, or the columns of the trailing channels, that fill no whole run."""
        axis, length = self.run
        left = shape[axis] % length
        return Remainder(0, left * math.prod(shape[2:])) if axis else Remainder(left, 0)

    def pool(self, scores: Tensor) -> Tensor:
        """Return the sum of the scores of each whole run, in float64 so that ties stay ties."""
        axis, length = self.run
        lines = as_matrix(scores.transpose(0, axis)).double().sum(dim=1)
        units = lines[: len(lines) - len(lines) % length].reshape(-1, length).sum(dim=1)
        return units.reshape(1, -1) if axis else units.reshape(-1, 1)

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Repeat each run's choice over its weights; what fills no whole run is kept."""
        axis, length = self.run
        keep = units.new_ones(shape)
        chosen = units.reshape(-1).repeat_interleave(length)
        part = keep.transpose(0, axis)[: len(chosen)]
        part.copy_(chosen.reshape(-1, *[1] * (len(shape) - 1)).expand_as(part))
        return keep

    def admits(self, keep: Tensor) -> bool:
        """Whether every whole run is kept or removed as a whole."""
        axis, length = self.run
        lines = as_matrix(keep.transpose(0, axis))
        whole = len(lines) // length
        runs = lines[: whole * length].reshape(whole, length * lines.shape[1])
        return runs.numel() == 0 or bool((runs.all(dim=1) == runs.any(dim=1)).all())
