"""Noise in (0, 1] that multiplies whole units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Adam, Optimizer

from sparsekit.patterns import Filter, Pattern
from sparsekit.training.bayesian import truncated
from sparsekit.training.bayesian.base import BayesianMethod
from sparsekit.training.gates.base import GATE, NOISE
from sparsekit.training.gates.unit_gates import filled, number_units, over_weights
from sparsekit.training.site import Site
from sparsekit.training.state import State

LOWEST, HIGHEST = -20.0, 5.0
"""Limits of ``mu`` and ``log sigma``."""


@dataclass(frozen=True)
class StructuredBayesian(BayesianMethod):
    """Multiplies each unit by log-normal noise on ``[e^-20, 1]``, and removes those that are noise more than signal.

    The prior is log-uniform on the same interval, so nothing is approximated. In the end a unit is multiplied by the
    mean of its noise. Without a sparsity, those stay whose mean is above their standard deviation. Start from a trained
    model, as the paper does.

    Args:
        data_size: examples in the training set.
        warm_up: share of the run in which the divergence's weight grows from 0 to 1; the paper has none.
        log_sigma: first logarithm of the noise's parameter ``sigma``; ``mu`` starts at 0.
        learning_rate: of Adam, on both.

    Raises:
        PruningError: an argument is out of its range.

    Source: Neklyudov, Molchanov, Ashukha, Vetrov 2017, "Structured Bayesian Pruning via Log-Normal Multiplicative
    Noise". Noise is drawn once per step for the whole batch.
    """

    data_size: int = 60_000
    warm_up: float = 0.0
    log_sigma: float = -5.0
    learning_rate: float = 0.05
    default_pattern: ClassVar[Pattern] = Filter()

    @property
    def cut(self) -> float:
        """Return the logarithm of a mean as large as the standard deviation."""
        return 0.0

    def make_optimizer(self, gates: list[Tensor]) -> Optimizer:
        """Return Adam, with the paper's longer memory of gradients."""
        return Adam(gates, lr=self.learning_rate, betas=(0.95, 0.999))

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``mu`` and ``log sigma``, one each per unit."""
        count = number_units(state, site)
        return {"mu": filled(count, 0.0, weight), "log_sigma": filled(count, self.log_sigma, weight)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw the quantile of each unit's noise."""
        mu = site.tensors[GATE + "mu"]
        return {"u": state.uniform(tuple(mu.shape), mu)}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights times their units' noise, or its mean."""
        mu, log_sigma = gates["mu"], gates["log_sigma"]
        u = site.tensors.get(NOISE + "u")
        noise = truncated.log_moment(mu, log_sigma, 1).exp() if u is None else truncated.sample(mu, log_sigma, u)
        return weight * over_weights(site, noise.to(mu.dtype))

    def divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the divergence from the log-uniform prior."""
        return truncated.divergence(gates["mu"], gates["log_sigma"]).sum()

    def constrain(self, site: Site, gates: Mapping[str, Tensor]) -> None:
        """Keep both where all is finite."""
        for gate in gates.values():
            gate.clamp_(LOWEST, HIGHEST)

    def importance(self, site: Site) -> Tensor:
        """Return the logarithm of the signal-to-noise ratio."""
        mu = site.tensors[GATE + "mu"]
        return truncated.log_signal_to_noise(mu, site.tensors[GATE + "log_sigma"]).to(mu.dtype)
