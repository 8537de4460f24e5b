"""Gaussian noise on every weight, with a variance of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.training.bayesian.base import BayesianMethod
from sparsekit.training.bayesian.divergences import from_log_uniform, log_alpha_of
from sparsekit.training.gates.base import GATE, LATENT, NOISE
from sparsekit.training.gates.unit_gates import number_units, over_units, precise, unit_sizes
from sparsekit.training.site import Site
from sparsekit.training.state import State


@dataclass(frozen=True)
class VariationalDropout(BayesianMethod):
    """Runs on ``theta + sigma * noise``, and removes the weights whose noise is larger than what they say.

    ``theta`` is the learned weight, ``log sigma^2`` is learned beside it; ``alpha = sigma^2 / theta^2``. The prior is
    log-uniform, which prefers a large ``alpha``. In the end the weights are ``theta`` where ``log alpha`` is at most
    the threshold, or, where a sparsity is given, where it is lowest; a unit of several weights has their mean.

    Args:
        data_size: examples in the training set.
        threshold: of ``log alpha``.
        warm_up: share of the run in which the divergence's weight grows from 0 to 1. From scratch, it needs one.
        log_variance: first ``log sigma^2``.
        learning_rate: of Adam, on ``log sigma^2``. The paper's 1e-3 is for a hundred thousand steps.

    Raises:
        PruningError: an argument is out of its range.

    Source: Molchanov, Ashukha, Vetrov 2017, "Variational Dropout Sparsifies Deep Neural Networks", sections 3 and 4.
    The paper draws the outputs of a layer, for each example; here weights are drawn once per step, which has the same
    mean and variance, and more noise in the gradient.
    """

    data_size: int = 60_000
    threshold: float = 3.0
    warm_up: float = 0.5
    log_variance: float = -10.0
    learning_rate: float = 0.05

    @property
    def cut(self) -> float:
        """Return the threshold of ``-log alpha``."""
        return -self.threshold

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``log sigma^2``, one per weight."""
        number_units(state, site)
        return {"log_variance": torch.full_like(precise(weight), self.log_variance)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw the noise of each weight."""
        return {"weight": state.normal(site.shape, site.tensors[GATE + "log_variance"])}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return ``theta + sigma * noise``."""
        noise = site.tensors.get(NOISE + "weight")
        return weight if noise is None else weight + torch.exp(0.5 * gates["log_variance"]) * noise

    def divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the approximate divergence from the log-uniform prior."""
        return from_log_uniform(log_alpha_of(precise(weight), gates["log_variance"])).sum()

    def importance(self, site: Site) -> Tensor:
        """Return the mean of ``-log alpha``."""
        log_alpha = log_alpha_of(precise(site.tensors[LATENT]), site.tensors[GATE + "log_variance"])
        return -over_units(site, log_alpha) / unit_sizes(site)
