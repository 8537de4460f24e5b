"""Priors of the scale that a group of weights shares, and the distributions learned for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.training.bayesian.divergences import (
    from_log_uniform,
    log_alpha_of,
    log_normal_from_gamma,
    log_normal_from_inverse_gamma,
)
from sparsekit.training.gates.unit_gates import filled

Gates = Mapping[str, Tensor]


class Scale(ABC):
    """A prior of ``z``, one per unit."""

    @abstractmethod
    def gates(self, jitter: Tensor, log_variance: float) -> dict[str, Tensor]:
        """Return what is learned, from a first ``z`` of about ``1 + jitter``, ``(units,)``."""

    @abstractmethod
    def draw(self, gates: Gates, noise: Tensor) -> Tensor:
        """Return ``z`` for standard normal ``noise``, ``(units + 1,)``; the last is for what all units share."""

    @abstractmethod
    def mean(self, gates: Gates) -> Tensor:
        """Return the mean of ``z``, ``(units,)``."""

    @abstractmethod
    def divergence(self, gates: Gates) -> Tensor:
        """Return the divergence of what each unit has by itself from the prior, a scalar."""

    def shared_divergence(self, gates: Gates) -> Tensor | float:
        """Return that of what all units share."""
        return 0.0

    @abstractmethod
    def log_alpha(self, gates: Gates) -> Tensor:
        """Return ``log(variance / mean^2)`` of each unit's own scale, ``(units,)``."""


@dataclass(frozen=True)
class NormalJeffreys(Scale):
    """A log-uniform prior of ``z``, and a normal posterior.

    Source: Louizos, Ullrich, Welling 2017, "Bayesian Compression for Deep Learning", section 4.1.
    """

    def gates(self, jitter: Tensor, log_variance: float) -> dict[str, Tensor]:
        """Return mean and logarithm of the variance."""
        return {"scale": 1.0 + jitter, "scale_log_variance": torch.full_like(jitter, log_variance)}

    def draw(self, gates: Gates, noise: Tensor) -> Tensor:
        """Return ``mean + deviation * noise``."""
        return gates["scale"] + torch.exp(0.5 * gates["scale_log_variance"]) * noise[:-1]

    def mean(self, gates: Gates) -> Tensor:
        """Return the mean."""
        return gates["scale"]

    def divergence(self, gates: Gates) -> Tensor:
        """Return the divergence from the log-uniform prior, approximately."""
        return from_log_uniform(self.log_alpha(gates)).sum()

    def log_alpha(self, gates: Gates) -> Tensor:
        """Return ``log(variance / mean^2)``."""
        return log_alpha_of(gates["scale"], gates["scale_log_variance"])


@dataclass(frozen=True)
class Horseshoe(Scale):
    """Half-Cauchy priors of each unit's scale and of one that the layer shares, and log-normal posteriors.

    A squared half-Cauchy variable is the product of a gamma variable of shape 1/2 and an inverse gamma variable of
    shape 1/2, so ``z = sqrt(s_a s_b a b)`` with such a pair ``s`` for the layer and one for each unit. Each factor has
    a log-normal posterior, and so has ``z``.

    Args:
        spread: scale of the layer's half-Cauchy prior. Units start where they have to escape it.

    Source: Louizos, Ullrich, Welling 2017, "Bayesian Compression for Deep Learning", section 4.2. The divergences are
    derived anew; where factors start is ours.
    """

    spread: float = 1e-2

    def gates(self, jitter: Tensor, log_variance: float) -> dict[str, Tensor]:
        """Return mean and logarithm of the variance of the four factors' logarithms."""
        found = {}
        one, low = torch.zeros_like(jitter[:1]), 2 * math.log(self.spread)
        for name, start in (("a", jitter), ("b", jitter - low), ("layer_a", one + low), ("layer_b", one)):
            found[name] = start.clone()
            found[name + "_log_variance"] = filled(start.numel(), log_variance, start)
        return found

    def draw(self, gates: Gates, noise: Tensor) -> Tensor:
        """Return ``exp`` of the sums of means, and of deviations times noise."""
        own, shared = self._variances(gates)
        return torch.exp(self._median(gates) + own.sqrt() * noise[:-1] + shared.sqrt() * noise[-1])

    def mean(self, gates: Gates) -> Tensor:
        """Return the mean of the log-normal ``z``."""
        own, shared = self._variances(gates)
        return torch.exp(self._median(gates) + 0.5 * (own + shared))

    def divergence(self, gates: Gates) -> Tensor:
        """Return the sum over both factors of each unit."""
        first = log_normal_from_gamma(gates["a"], gates["a_log_variance"], 1.0)
        return (first + log_normal_from_inverse_gamma(gates["b"], gates["b_log_variance"])).sum()

    def shared_divergence(self, gates: Gates) -> Tensor:
        """Return the sum over both factors of the layer."""
        first = log_normal_from_gamma(gates["layer_a"], gates["layer_a_log_variance"], self.spread**2)
        return (first + log_normal_from_inverse_gamma(gates["layer_b"], gates["layer_b_log_variance"])).sum()

    def log_alpha(self, gates: Gates) -> Tensor:
        """Return minus twice the logarithm of the mode of ``z``: here scales that say nothing are small."""
        own, shared = self._variances(gates)
        return -2 * (self._median(gates) - own - shared)

    def _median(self, gates: Gates) -> Tensor:
        return 0.5 * (gates["a"] + gates["b"] + gates["layer_a"] + gates["layer_b"])

    def _variances(self, gates: Gates) -> tuple[Tensor, Tensor]:
        """Variance of ``log z`` that a unit has by itself, and that it shares."""
        own = gates["a_log_variance"].exp() + gates["b_log_variance"].exp()
        shared = gates["layer_a_log_variance"].exp() + gates["layer_b_log_variance"].exp()
        return 0.25 * own, 0.25 * shared
