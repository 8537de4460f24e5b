"""The log-normal distribution on ``[e^-20, 1]``: noise that multiplies, and is never above 1.

``log x`` is a normal variable of mean ``mu`` and deviation ``sigma``, cut off at -20 and 0. All is in float64, and
stays finite for ``mu`` in [-20, 5] and ``log sigma`` in [-20, 5], where both limits may lie far out in the lower tail.

Source: Neklyudov, Molchanov, Ashukha, Vetrov 2017, "Structured Bayesian Pruning via Log-Normal Multiplicative Noise",
equations 9 to 13; rearranged so that large terms cancel before they are computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOW = -20.0
"""The lower limit of ``log x``; the upper one is 0."""
FAR = -1e3
"""Standardised upper limit below which the first terms of a series are exact to 1e-6 of their value."""
NEWTON_STEPS = 6


def limits(mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``sigma`` and the standardised limits, in float64."""
    sigma = log_sigma.double().exp()
    return sigma, (LOW - mu.double()) / sigma, -mu.double() / sigma


def divergence(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the divergence from the log-uniform distribution on the same interval."""
    _, low, high = limits(mu, log_sigma)
    normaliser = log_normal(high) + _log_share(low, high)
    low_term = 0.5 * low * torch.exp(-0.5 * low.square() - 0.5 * math.log(2 * math.pi) - normaliser)
    near = high.clamp_min(FAR)
    mass = log_normal(near) + _log_share(low, near)
    density = torch.exp(-0.5 * near.square() - 0.5 * math.log(2 * math.pi) - mass)
    far = high.clamp_max(FAR)
    series = 0.5 * math.log(2 * math.pi) + torch.log(-far) + 1 / far.square() - 0.5 + 1 / far.square()
    high_terms = torch.where(high > FAR, 0.5 * near * density - mass, series)
    return math.log(-LOW) - 0.5 * math.log(2 * math.pi * math.e) - log_sigma.double() - low_term + high_terms


def log_moment(mu: Tensor, log_sigma: Tensor, order: int) -> Tensor:
    """Return ``log E[x^order]``."""
    sigma, low, high = limits(mu, log_sigma)
    shift = order * sigma
    shares = _log_share(low - shift, high - shift) - _log_share(low, high)
    inside = order * mu.double() + 0.5 * shift.square()
    inside = inside + log_normal(high - shift) - log_normal(high)
    below = high.clamp_max(0.0)  # there the normal densities at the upper limit cancel
    ratio = log_tail(below - shift) - log_tail(below)
    return torch.where(high < 0, ratio, inside) + shares


def log_signal_to_noise(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the logarithm of the mean divided by the standard deviation."""
    excess = log_moment(mu, log_sigma, 2) - 2 * log_moment(mu, log_sigma, 1)
    return -0.5 * torch.log(torch.expm1(excess).clamp_min(1e-30))


def sample(mu: Tensor, log_sigma: Tensor, u: Tensor) -> Tensor:
    """Return ``x`` at the quantile ``u``, in (0, 1): differentiable in ``mu`` and ``log_sigma``."""
    sigma, low, high = limits(mu, log_sigma)
    gap = torch.exp(log_normal(low) - log_normal(high))
    inner = torch.log(u.double() + (1 - u.double()) * gap)
    near = high.clamp_min(FAR)
    level = log_normal(near) + inner
    place = _normal_quantile(level.detach())
    place = place + (level - level.detach()) / hazard(place)  # the slope of the inverse, without that of its iteration
    standard = torch.where(high > FAR, place, high - inner / high.clamp_max(FAR))
    return (mu.double() + sigma * standard).clamp(LOW, 0.0).exp()


def hazard(x: Tensor) -> Tensor:
    """Return the slope of ``log Phi``."""
    scaled: Tensor = torch.special.erfcx(-x / math.sqrt(2))
    return math.sqrt(2 / math.pi) / scaled


class _LogNormal(torch.autograd.Function):
    """``log Phi(x)`` with a slope that is right also where torch's is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        found: Tensor = torch.special.log_ndtr(x)
        return found

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return slope * hazard(x)


class _LogTail(torch.autograd.Function):
    """``log Phi(x) + x^2 / 2`` for ``x <= 0``, where the two nearly cancel, and so do their slopes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.log(0.5 * torch.special.erfcx(-x / math.sqrt(2)))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        far = x.clamp_max(FAR)
        return slope * torch.where(x > FAR, hazard(x) + x, -1 / far + 2 / far**3)


def log_normal(x: Tensor) -> Tensor:
    """Return ``log Phi(x)``, the logarithm of the standard normal distribution function."""
    found: Tensor = _LogNormal.apply(x)  # type: ignore[no-untyped-call]
    return found


def log_tail(x: Tensor) -> Tensor:
    """Return ``log Phi(x) + x^2 / 2`` for ``x <= 0``."""
    found: Tensor = _LogTail.apply(x)  # type: ignore[no-untyped-call]
    return found


def _log_share(low: Tensor, high: Tensor) -> Tensor:
    """Return ``log(1 - Phi(low) / Phi(high))``."""
    return torch.log(-torch.expm1(log_normal(low) - log_normal(high)))


def _normal_quantile(level: Tensor) -> Tensor:
    """Return the ``x`` with ``log Phi(x) = level``, by Newton's method from the left where ``Phi(x)`` is tiny."""
    place = -torch.sqrt(-2 * level.clamp_max(-1.0))
    for _ in range(NEWTON_STEPS):
        place = place - (log_normal(place) - level) / hazard(place)
    return torch.where(level > -30.0, torch.special.ndtri(level.exp()), place)
