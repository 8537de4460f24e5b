"""A pattern along the input channels of each tap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import Pattern
from sparsekit.patterns.over_channels import OverChannels
from sparsekit.patterns.taps import taps_of


@dataclass(frozen=True)
class PerTap(OverChannels):
    """Each tap of a convolution has the pattern on its own matrix of outputs by input channels.

    ``PerTap(NM(2, 4))`` keeps 2 of every 4 consecutive input channels at every tap, and ``PerTap(Block(16, 16))``
    removes 16 outputs by 16 channels of a tap: what a convolution multiplies by when it goes through its taps one by
    one. ``PerTap(Channel())`` removes the same weight of all filters. No group or block crosses from tap to tap. Input
    channels that fill no whole group are kept dense at every tap. Weights without kernels, such as those of a Linear,
    are refused.

    The matrix that the pattern sees has a run of channels at the first tap, at the second, and so on, before the next
    run of channels: a run is as long as the pattern needs.

    Args:
        pattern: of a matrix, chosen in runs of columns of one length: ``NM``, ``Block``, ``VNM``, ``Channel``, ...

    Raises:
        PatternError: the pattern is one of kernels or of whole rows.

    Source: Pool, Yu 2021, "Channel Permutations for N:M Sparsity", for N:M along input channels; Lebedev, Lempitsky
    2016, "Fast ConvNets Using Group-wise Brain Damage", for the columns.
    """

    pattern: Pattern

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern.span((1, 2)) != self.pattern.span((1, 3)):
            raise PatternError(f"PerTap: expected a pattern that can be cut between columns, got {self.pattern}")

    def block_sides(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the rows of a block of the pattern, and one column: its channels lie a kernel apart."""
        sides = self.pattern.block_sides(shape[:2])
        return None if sides is None else (sides[0], 1)

    def as_seen(self, scores: Tensor) -> Tensor:
        """Return the whole runs of channels, ``(out, runs * taps * channels of a run)``."""
        out, runs, run, taps = self._sides(tuple(scores.shape))
        whole = scores[:, : runs * run].reshape(out, runs, run, taps)
        return whole.transpose(2, 3).reshape(out, runs * taps * run)

    def as_weight(self, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Put the runs back; channels that fill none are kept."""
        out, runs, run, taps = self._sides(shape)
        keep = seen.new_ones(shape, dtype=torch.bool)
        whole = seen.reshape(out, runs, taps, run).transpose(2, 3)
        keep[:, : runs * run] = whole.reshape(out, runs * run, *shape[2:])
        return keep

    def shuffle(self, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Shuffle as the pattern does; see :meth:`Pattern.shuffle`. Channels that fill no run stay as they are."""
        shuffled = self.as_weight(self.pattern.shuffle(self.as_seen(keep), generator), tuple(keep.shape))
        _, runs, run, _ = self._sides(tuple(keep.shape))
        shuffled[:, runs * run :] = keep[:, runs * run :]
        return shuffled

    def admits(self, keep: Tensor) -> bool:
        """Whether the pattern admits the runs of channels of all taps, side by side."""
        return self.pattern.admits(self.as_seen(keep))

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Outputs, whole runs of channels, channels of a run, taps."""
        run = self.pattern.span(shape[:2])
        return shape[0], shape[1] // run, run, taps_of(shape)
