"""An expected count of weights as a penalty, through gates that are exactly 0 or 1 with some probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Channel, Pattern
from sparsekit.training.gates.base import GATE, NOISE
from sparsekit.training.gates.unit_gates import (
    UnitGates,
    filled,
    number_units,
    over_units,
    over_weights,
    precise,
    unit_sizes,
)
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

LIMIT = math.log(100.0)
"""Largest absolute value of ``log alpha``."""
JITTER = 0.01
"""Standard deviation of the first ``log alpha``."""


@dataclass(frozen=True)
class L0HardConcrete(UnitGates):
    """Multiplies each unit by a random gate in [0, 1], and pays for the probability that it is not 0.

    A concrete variable ``s = sigmoid((log u - log(1 - u) + log alpha) / beta)`` is stretched to ``(gamma, zeta)`` and
    cut off at 0 and 1. The cost is ``strength * P(gate > 0)`` per weight; ``log alpha`` is learned per unit, by default
    per input channel, as the authors gate inputs of dense layers. In the end a unit is multiplied by the gate without
    noise, ``clip(sigmoid(log alpha) (zeta - gamma) + gamma, 0, 1)``, and goes where that is 0. It is not the mean.

    Args:
        strength: cost of one weight, in units of the loss; None takes one divided by the number of all weights. The
            paper's numbers are for a loss summed over the data: its 0.1 for 60 000 images is 0.1 / 60000 here.
        decay: of weights, times the probability that they run: adds ``decay / 2 * P(gate > 0) * w^2``.
        drop_rate: first probability that the gate is off, before stretching, in (0, 1).
        beta, gamma, zeta: temperature and limits of the stretched variable.
        learning_rate: of Adam, on ``log alpha``. The paper's 1e-3 is for a hundred thousand steps: from the start, a
            gate needs at least ``2.4 / learning_rate`` steps to close; runs of 100 steps are short for that.

    Raises:
        PruningError: an argument is out of its range.

    Source: Louizos, Welling, Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization", equations 10 to
    13. Gates are drawn once per step for the whole batch.
    """

    strength: float | None = None
    decay: float = 0.0
    drop_rate: float = 0.5
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    learning_rate: float = 0.1
    default_pattern: ClassVar[Pattern] = Channel()
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate, beta=self.beta)
        if (self.strength is not None and self.strength < 0) or self.decay < 0 or not 0 < self.drop_rate < 1:
            raise PruningError(
                "expected strength and decay of at least 0 and drop_rate in (0, 1), got "
                f"strength={self.strength!r}, decay={self.decay!r}, drop_rate={self.drop_rate!r}"
            )
        if not self.gamma < 0 or not self.zeta > 1:
            raise PruningError(f"expected gamma < 0 and zeta > 1, got gamma={self.gamma!r} and zeta={self.zeta!r}")

    @property
    def cut(self) -> float:
        """Return the ``log alpha`` at which the gate without noise closes."""
        return math.log(-self.gamma / self.zeta)

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``log alpha`` per unit, of the drop rate up to a little noise that makes units differ."""
        start = filled(number_units(state, site), math.log(1 / self.drop_rate - 1), weight)
        return {"log_alpha": start + JITTER * state.normal(tuple(start.shape), start)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw ``u``."""
        gate = site.tensors[GATE + "log_alpha"]
        return {"u": state.uniform(tuple(gate.shape), gate)}

    def gate(self, log_alpha: Tensor, u: Tensor | None = None) -> Tensor:
        """Return the gate in [0, 1] for the noise ``u`` in (0, 1); None for that without noise.

        Source: equations 10 to 12, and 13 without noise.
        """
        noisy = log_alpha if u is None else (torch.logit(u) + log_alpha) / self.beta
        return (torch.sigmoid(noisy) * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)

    def chance(self, log_alpha: Tensor) -> Tensor:
        """Return the probability that the gate is not 0.

        Source: equation 12's cumulative distribution at 0.
        """
        return torch.sigmoid(log_alpha - self.beta * math.log(-self.gamma / self.zeta))

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights times their units' gates."""
        return weight * over_weights(site, self.gate(gates["log_alpha"], site.tensors.get(NOISE + "u")))

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the expected count of weights times the strength, and the decay of those that run."""
        chance = self.chance(gates["log_alpha"])
        strength = self._share(state) if self.strength is None else self.strength
        total = self.pressure(state) * strength * (chance * unit_sizes(site)).sum()
        if self.decay:
            total = total + 0.5 * self.decay * (chance * over_units(site, precise(weight).square())).sum()
        return total

    def constrain(self, site: Site, gates: Mapping[str, Tensor]) -> None:
        """Keep ``log alpha`` where its gradient has not vanished."""
        gates["log_alpha"].clamp_(-LIMIT, LIMIT)

    def importance(self, site: Site) -> Tensor:
        """Return ``log alpha``, which grows with the gate."""
        return site.tensors[GATE + "log_alpha"]

    def _share(self, state: State) -> float:
        return 1.0 / max(1, sum(site.keep.numel() for site in state.sites))
