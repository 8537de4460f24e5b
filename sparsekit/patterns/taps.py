"""Kernels of a convolution as a pattern sees them: their positions are *taps*, in row-major order."""

from __future__ import annotations

import math

from torch import Tensor


def taps_of(shape: tuple[int, ...]) -> int:
    """Weights per kernel of a weight ``(out, in, ...)``."""
    return math.prod(shape[2:])


def without_kernels(shape: tuple[int, ...]) -> str | None:
    """Say why a weight of ``shape`` cannot have a pattern of kernels; None where it can.

    A kernel of one tap is a kernel; the weight of a Linear has none.
    """
    return None if len(shape) >= 3 else f"needs kernels, a weight (out, in, height, width), got shape {shape}"


def as_kernels(weight: Tensor) -> Tensor:
    """The kernels of a weight ``(out, in, ...)``, one per row: ``(out * in, taps)``."""
    shape = tuple(weight.shape)
    return weight.reshape(math.prod(shape[:2]), taps_of(shape))
