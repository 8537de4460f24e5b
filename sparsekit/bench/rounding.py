"""Whether a result is right, which every kernel has to show before it is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import KernelError

ERROR_BOUND = 64
"""Roundings that an element may show, in units of eps times the product of the absolute values."""


def expect_exact(name: str, y: Tensor, exact: Tensor, scale: Tensor) -> None:
    """Raise :class:`KernelError` unless ``y`` is ``exact`` up to rounding, element by element.

    Args:
        name: what is blamed.
        y: what was computed.
        exact: the same in float64.
        scale: the same of absolute values: what the roundings are relative to.
    """
    if y.shape != exact.shape:
        raise KernelError(f"{name}: expected a result of {tuple(exact.shape)}, got {tuple(y.shape)}")
    error = (y.double() - exact).abs()  # exactly 0 where an empty row gives a scale of 0
    roundings = torch.where(error == 0.0, 0.0, error / (torch.finfo(y.dtype).eps * scale))
    worst = roundings.nan_to_num(torch.inf).max().item()
    if worst > ERROR_BOUND:
        raise KernelError(f"{name}: expected errors of at most {ERROR_BOUND} roundings, got {worst:.0f}")
