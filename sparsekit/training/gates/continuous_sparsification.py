"""Sigmoids that become steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.base import check_every
from sparsekit.training.gates.base import GATE, LATENT
from sparsekit.training.gates.unit_gates import UnitGates, filled, number_units, over_weights
from sparsekit.training.schedules import Exponential
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

BETA = "beta"


@dataclass(frozen=True)
class ContinuousSparsification(UnitGates):
    """Multiplies each unit by ``sigmoid(beta * s) / sigmoid(s0)``, where ``beta`` grows until the sigmoid is a step.

    At the start, every factor is 1; in the end, units with ``s > 0`` stay, times ``1 / sigmoid(s0)``, and how many
    these are follows from ``s0`` more than from the cost: a lower ``s0`` removes more. With several rounds, ``s``
    becomes ``min(beta * s, s0)`` after each and ``beta`` starts anew, so that what was going gets no second chance,
    while what stays has to prove itself again.

    Args:
        s0: every first ``s``.
        strength: cost of each sigmoid, in units of the loss; None takes one divided by the number of all. The paper
            takes 1e-8, and leaves the sparsity to ``s0``.
        beta: the final ``beta``, from 1, at least 1.
        rounds: in which the run is divided. Weights go on from round to round; to rewind them, start another run.
        learning_rate: of Adam, on ``s``.

    Raises:
        PruningError: an argument is out of its range.

    Source: Savarese, Silva, Maire 2020, "Winning the Lottery with Continuous Sparsification", section 3. The paper
    learns ``s`` by SGD with the weights' learning rate, 0.1.
    """

    s0: float = 0.0
    strength: float | None = None
    beta: float = 200.0
    rounds: int = 1
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        check_every(rounds=self.rounds)
        if (self.strength is not None and self.strength < 0) or not self.beta >= 1:
            raise PruningError(f"expected strength >= 0 and beta >= 1, got {self.strength!r} and {self.beta!r}")

    @property
    def cut(self) -> float:
        """Zero."""
        return 0.0

    def check(self, state: State) -> None:
        """Raise unless each round has a step."""
        if self.rounds > state.steps:
            raise PruningError(f"rounds: expected at most the {state.steps} steps of the run, got {self.rounds}")

    def anneal(self, state: State, step: int) -> None:
        """Raise ``beta``; between two rounds, clamp ``s`` and start anew."""
        super().anneal(state, step)
        length = state.steps / self.rounds
        now = min(self.rounds - 1, int(step / length))
        if now != state.numbers.setdefault("round", now):
            for site in state.sites:
                scores = site.tensors[GATE + "s"]
                scores.copy_((state.numbers[BETA] * scores).clamp_max(self.s0))
            state.numbers["round"] = now
        schedule = Exponential(1.0, self.beta, now * length, max(now * length + 1.0, (now + 1) * length - 1.0))
        state.numbers[BETA] = schedule.value(step)
        state.note(BETA, state.numbers[BETA])

    def wanted(self, state: State, asked: float, step: int) -> float:
        """Return what goes in the end: every ``s`` starts at the edge, and decides early."""
        return asked

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``s``, one per unit."""
        return {"s": filled(number_units(state, site), self.s0, weight)}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights times their factors."""
        return weight * over_weights(site, torch.sigmoid(state.numbers[BETA] * gates["s"]) / self._scale())

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the sigmoids, times the strength."""
        strength = self.share_of(state) if self.strength is None else self.strength
        return self.pressure(state) * strength * torch.sigmoid(state.numbers[BETA] * gates["s"]).sum()

    def importance(self, site: Site) -> Tensor:
        """Return ``s``."""
        return site.tensors[GATE + "s"]

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the weights times the factor of an open gate."""
        return site.tensors[LATENT] * over_weights(site, torch.full_like(site.tensors[GATE + "s"], 1 / self._scale()))

    def _scale(self) -> float:
        return 1.0 / (1.0 + math.exp(-self.s0))
