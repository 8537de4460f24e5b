"""Whether a result is right, which every kernel has to show before it is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import KernelError

ERROR_BOUND = 64
"""Roundings that an element may show, in units of eps times the product of the absolute values."""
DEVIATIONS = 8
"""Standard deviations that an element rounded to 8 bits may be off: 1e-15 of a normal distribution is beyond them."""


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


def rounding_of_8_bits(x: Tensor, weight: Tensor) -> Tensor:
    """Return the standard deviation that 8 bits give each element of ``x @ weight.T``.

    Steps are the largest absolute value over 127, of a row of the weight, and of all activations, which is what the
    coarsest of the ways that are compared takes. A rounding is uniform over a step, so its variance is the square of
    the step over 12; the roundings of different factors are as good as independent, and variances add up. Weights that
    are 0 stay 0 exactly.

    Args:
        x: ``(batch, columns)``.
        weight: ``(rows, columns)``.
    """
    if x.numel() == 0 or weight.numel() == 0:
        return x.new_zeros(x.shape[0], weight.shape[0])
    of_x = (x.abs().max() / 127).square() / 12 * weight.square().sum(1)
    of_weight = (weight.abs().amax(1) / 127).square() / 12
    return (of_x + x.square() @ (weight != 0).to(x.dtype).T * of_weight).sqrt()


def expect_rounded(name: str, y: Tensor, exact: Tensor, deviation: Tensor) -> None:
    """Raise :class:`KernelError` unless ``y`` is within :data:`DEVIATIONS` of ``exact``, element by element.

    Args:
        name: what is blamed.
        y: what was computed.
        exact: the same in float64, of factors that were not rounded.
        deviation: what :func:`rounding_of_8_bits` gives.
    """
    if y.shape != exact.shape:
        raise KernelError(f"{name}: expected a result of {tuple(exact.shape)}, got {tuple(y.shape)}")
    slack = DEVIATIONS * deviation + ERROR_BOUND * torch.finfo(torch.float32).eps * exact.abs()
    error = (y.double() - exact).abs()
    if not bool((error <= slack).all()):
        worst = torch.where(error == 0.0, 0.0, error / deviation).nan_to_num(torch.inf).max().item()
        raise KernelError(f"{name}: expected errors of at most {DEVIATIONS} deviations of 8 bits, got {worst:.1f}")
