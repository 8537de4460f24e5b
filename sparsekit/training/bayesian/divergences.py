"""Divergences from priors, per variable, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

K1, K2, K3 = 0.63576, 1.87320, 1.48695
LIMIT = 8.0
"""Largest absolute value of ``log alpha`` whose divergence is told apart."""


def log_alpha_of(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return ``log(variance / mean^2)``, finite also for a mean of 0."""
    tiny = torch.finfo(mean.dtype).tiny
    return log_variance - torch.log(mean.square().clamp_min(tiny))


def from_log_uniform(log_alpha: Tensor) -> Tensor:
    """Divergence of ``N(m, alpha m^2)`` from the log-uniform prior, up to a constant: 0 as alpha grows.

    It is an approximation whose error is at most about 0.011. Beyond ``log alpha`` of 8 either way it is constant.

    Source: Molchanov, Ashukha, Vetrov 2017, "Variational Dropout Sparsifies Deep Neural Networks", equation 14.
    """
    clipped = log_alpha.clamp(-LIMIT, LIMIT)
    return K1 * torch.sigmoid(-(K2 + K3 * clipped)) + 0.5 * F.softplus(-clipped)


def from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of ``N(mean, variance)`` from ``N(0, 1)``."""
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)


def log_normal_from_gamma(mean: Tensor, log_variance: Tensor, scale: float) -> Tensor:
    """Divergence of a log-normal, ``log x ~ N(mean, variance)``, from the gamma of shape 1/2 and ``scale``.

    Source: the expectations of ``log x`` and ``x``, which are ``mean`` and ``exp(mean + variance / 2)``.
    """
    expected = torch.exp(mean + 0.5 * log_variance.exp() - math.log(scale))
    return expected - 0.5 * (mean - math.log(scale)) - 0.5 * (math.log(2 * math.e) + log_variance)


def log_normal_from_inverse_gamma(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of a log-normal, ``log x ~ N(mean, variance)``, from the inverse gamma of shape 1/2 and scale 1.

    Source: as :func:`log_normal_from_gamma`, for ``1 / x``.
    """
    return log_normal_from_gamma(-mean, log_variance, 1.0)
