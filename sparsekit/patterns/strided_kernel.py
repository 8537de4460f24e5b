"""The same evenly spaced taps in many kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import FixedPattern, expect_finite, keep_highest
from sparsekit.patterns.taps import taps_of, without_kernels

SHARED = ("channel", "layer")


@dataclass(frozen=True)
class StridedKernel(FixedPattern):
    """Every kernel keeps the taps ``offset, offset + stride, ...`` in row-major order, its neighbours the same ones.

    The stride is given, and the scores choose the offset; a kernel of ``taps`` weights keeps ``max(1, taps // stride)``
    of them at any offset where so many fit, so that the sparsity does not depend on the choice. Kernels that read the
    same input channel, or all of the layer, share their offset: whole rows of the unfolded input are never used, and
    what is left is a dense product. A 1 x 1 kernel loses nothing. Weights without kernels are refused.

    Args:
        stride: distance of kept taps.
        shared: "channel", one offset for each input channel, or "layer", one for all.

    Raises:
        PatternError: the stride is smaller than 1, or ``shared`` is another word.

    Source: Anwar, Hwang, Sung 2015, "Structured Pruning of Deep Convolutional Neural Networks", intra-kernel strided
    sparsity, which chooses by a particle filter where this chooses by scores.
    """

    stride: int = 2
    shared: str = "channel"

    def __post_init__(self) -> None:
        if not (isinstance(self.stride, int) and self.stride >= 1 and self.shared in SHARED):
            raise PatternError(
                f"StridedKernel: expected stride >= 1 and shared = 'channel' or 'layer', got {self.stride} and "
                f"{self.shared!r}"
            )

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights without kernels."""
        return without_kernels(shape)

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a kernel, or all where the layer shares its offset."""
        return max(1, taps_of(shape) if self.shared == "channel" else math.prod(shape[1:]))

    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return ``1 - max(1, taps // stride) / taps``."""
        taps = max(1, taps_of(shape))
        return 1.0 - max(1, taps // self.stride) / taps

    def pool(self, scores: Tensor) -> Tensor:
        """Return the score of each offset, ``(channels that choose, offsets)``, summed in float64."""
        by_tap = scores.flatten(2).double().sum(dim=0)
        if self.shared == "layer":
            by_tap = by_tap.sum(dim=0, keepdim=True)
        return by_tap @ self._choices(tuple(scores.shape)).to(by_tap).T

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Give each kernel the taps of its offset."""
        choices = self._choices(shape).to(units.device)
        taps = (units[:, :, None] & choices).any(dim=1)
        return taps.expand(shape[1], -1).reshape(shape[1:]).expand(shape).contiguous()

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at the best offset of each row; ties go to the lower one."""
        expect_finite(units, self)
        return keep_highest(units, 1)

    def admits(self, keep: Tensor) -> bool:
        """Whether what is kept lies within the taps of one offset for each channel, or for the layer."""
        used = keep.flatten(2).any(dim=0)
        if self.shared == "layer":
            used = used.any(dim=0, keepdim=True)
        outside = used[:, None, :] & ~self._choices(tuple(keep.shape)).to(keep.device)
        return bool((~outside.any(dim=2)).any(dim=1).all())

    def _choices(self, shape: tuple[int, ...]) -> Tensor:
        """The taps that each offset keeps, bool ``(offsets, taps)``."""
        taps = taps_of(shape)
        if not taps:
            return torch.zeros(1, 0, dtype=torch.bool)
        kept = self.stride * torch.arange(max(1, taps // self.stride))
        offsets = torch.arange(taps - int(kept[-1]))
        choices = torch.zeros(len(offsets), taps, dtype=torch.bool)
        return choices.scatter_(1, offsets[:, None] + kept, True)
