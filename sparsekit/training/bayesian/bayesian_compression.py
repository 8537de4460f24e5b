"""A random scale that the weights of a unit share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Channel, Pattern
from sparsekit.training.bayesian.base import BayesianMethod
from sparsekit.training.bayesian.divergences import from_standard_normal
from sparsekit.training.bayesian.scales import Horseshoe, NormalJeffreys, Scale
from sparsekit.training.gates.base import NOISE, gates_of
from sparsekit.training.gates.unit_gates import filled, number_units, over_weights, precise
from sparsekit.training.site import Site
from sparsekit.training.state import State

JITTER = 0.01
"""Standard deviation of the first scales."""
SCALES: dict[str, Scale] = {"normal-jeffreys": NormalJeffreys(), "horseshoe": Horseshoe()}
THRESHOLDS = {"normal-jeffreys": -3.0, "horseshoe": 6.0}
WEIGHT = "weight_log_variance"


@dataclass(frozen=True)
class BayesianCompression(BayesianMethod):
    """Runs on ``z * w`` with a random scale ``z`` per unit and random weights, and removes units whose scale is noise.

    Weights have a standard normal prior given their scale; their means are the learned weights, and the logarithms of
    their variances are learned beside them. In the end a weight is the mean of ``z`` times that of ``w``. A unit is an
    input channel by default, as the authors' dense layers have it.

    Args:
        prior: of ``z``: "normal-jeffreys", log-uniform with normal posteriors; or "horseshoe", half-Cauchy with
            log-normal posteriors.
        data_size: examples in the training set.
        threshold: without a sparsity, a unit goes whose ``log alpha``, the logarithm of its scale's variance over its
            squared mean, is above; for the horseshoe, minus twice the logarithm of the scale's mode. The authors read
            it off a histogram; None takes -3 and 6.
        warm_up: share of the run in which the divergence's weight grows from 0 to 1.
        log_variance: first logarithm of all variances.
        learning_rate: of Adam, on all but the means of weights.

    Raises:
        PruningError: an argument is out of its range, or the prior is unknown.

    Source: Louizos, Ullrich, Welling 2017, "Bayesian Compression for Deep Learning", section 4. Scales and weights are
    drawn once per step for the whole batch.
    """

    prior: str = "normal-jeffreys"
    data_size: int = 60_000
    threshold: float | None = None
    warm_up: float = 0.5
    log_variance: float = -9.0
    learning_rate: float = 0.05
    default_pattern: ClassVar[Pattern] = Channel()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior not in SCALES:
            raise PruningError(f"prior: expected one of {', '.join(SCALES)}, got {self.prior!r}")

    @property
    def cut(self) -> float:
        """Return the threshold of ``-log alpha``."""
        return -(THRESHOLDS[self.prior] if self.threshold is None else self.threshold)

    def pressure(self, state: State) -> float:
        """Return 1 for the horseshoe, whose scales fall together when they are pressed, and let nothing choose."""
        return 1.0 if self.prior == "horseshoe" else super().pressure(state)

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return what is learned of scales, one per unit, and of the variances of weights."""
        start = filled(number_units(state, site), 0.0, weight)
        jitter = JITTER * state.normal(tuple(start.shape), start)
        variances = torch.full_like(precise(weight), self.log_variance)
        return {WEIGHT: variances, **SCALES[self.prior].gates(jitter, self.log_variance)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw the noise of weights and of scales."""
        like = site.tensors["gate." + WEIGHT]
        units = self.importance(site).numel()
        return {"weight": state.normal(site.shape, like), "scale": state.normal((units + 1,), like)}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return scales times weights, both drawn, or both means."""
        scale = SCALES[self.prior]
        noise = site.tensors.get(NOISE + "weight")
        if noise is None:
            return weight * over_weights(site, scale.mean(gates))
        drawn = weight + torch.exp(0.5 * gates[WEIGHT]) * noise
        return drawn * over_weights(site, scale.draw(gates, site.tensors[NOISE + "scale"]))

    def divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return that of the scales."""
        return SCALES[self.prior].divergence(gates)

    def other_divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return those of the weights from the standard normal, and of what all units share."""
        return from_standard_normal(precise(weight), gates[WEIGHT]).sum() + SCALES[self.prior].shared_divergence(gates)

    def importance(self, site: Site) -> Tensor:
        """Return ``-log alpha``."""
        return -SCALES[self.prior].log_alpha(gates_of(site))
