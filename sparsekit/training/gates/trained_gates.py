"""A gate for every weight, pulled to 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.gates.base import LATENT, NOISE
from sparsekit.training.gates.unit_gates import UnitGates, filled, number_units, over_weights
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive


@dataclass(frozen=True)
class TrainedGates(UnitGates):
    """Multiplies each unit by 0 or 1, drawn with the probability ``g`` that the unit's gate learns.

    The gradient passes to ``g`` as if the unit were multiplied by ``g`` itself. The cost of a gate,
    ``l1 * g (1 - g) + l2 * g``, pulls it to 0 or 1, and to 0 rather than to 1. In the end gates are rounded, or, where
    a sparsity is given, the units with the largest gates stay.

    Args:
        l1: cost of gates that are neither 0 nor 1; None takes half of what ``l2`` takes.
        l2: cost of gates that are not 0; None takes one divided by the number of all gates, so that all open cost 1.
        start: every gate's first value, in [0, 1].
        sampled: draw for every step; False rounds, so that a unit runs where its gate is above one half.
        learning_rate: of Adam, on the gates. A gate goes from 1 to 0 in about ``1 / learning_rate`` steps.

    Raises:
        PruningError: an argument is out of its range.

    Source: Srinivas, Subramanya, Babu 2017, "Training Sparse Neural Networks", section 3. The paper's numbers were not
    verified; Adam and the defaults are ours.
    """

    l1: float | None = None
    l2: float | None = None
    start: float = 1.0
    sampled: bool = True
    learning_rate: float = 0.01
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        check_fraction(start=self.start)
        if any(cost is not None and cost < 0 for cost in (self.l1, self.l2)):
            raise PruningError(f"l1, l2: expected costs of at least 0, got {self.l1!r} and {self.l2!r}")

    @property
    def cut(self) -> float:
        """One half."""
        return 0.5

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return one number per unit."""
        return {"g": filled(number_units(state, site), self.start, weight)}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw what the gates have to be above."""
        gate = site.tensors["gate.g"]
        return {"g": state.uniform(tuple(gate.shape), gate)} if self.sampled else {}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights whose gates are above the noise, or above one half without it."""
        gate = gates["g"]
        open_ = (gate > site.tensors.get(NOISE + "g", self.cut)).to(gate.dtype)
        return weight * over_weights(site, open_ + (gate - gate.detach()))

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the cost of all gates."""
        gate = gates["g"]
        l1 = 0.5 * self.share_of(state) if self.l1 is None else self.l1
        l2 = self.share_of(state) if self.l2 is None else self.l2
        return self.pressure(state) * (l1 * gate * (1.0 - gate) + l2 * gate).sum()

    def constrain(self, site: Site, gates: Mapping[str, Tensor]) -> None:
        """Bring gates back into [0, 1]."""
        gates["g"].clamp_(0.0, 1.0)

    def importance(self, site: Site) -> Tensor:
        """Return the gates."""
        return site.tensors["gate.g"]

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the learned weights: what stays has an open gate."""
        return site.tensors[LATENT].clone()
