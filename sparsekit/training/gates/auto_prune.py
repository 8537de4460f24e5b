"""An auxiliary number per weight that switches it off below zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from sparsekit.errors import PruningError
from sparsekit.training.gates.base import GATE, LATENT
from sparsekit.training.gates.unit_gates import UnitGates, filled, number_units, over_weights
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

SLOPE = 0.1
"""Of the leaky ReLU below zero."""
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": lambda v: F.leaky_relu(v, SLOPE),
    "softplus": F.softplus,
    "linear": lambda v: v,
}


@dataclass(frozen=True)
class AutoPrune(UnitGates):
    """Runs on ``w`` where an auxiliary number ``v`` is above 0, and on 0 elsewhere; learns both by gradient.

    The step function has no slope, so ``v`` learns through a surrogate ``h``: its gradient is that of the effective
    weight, times ``sign(w) * h'(v)``. It does not depend on the size of ``w``, so small weights are not slow to decide.
    Each ``v`` also pays ``strength * h(v)``, which pulls it to 0 and, the more so the steeper ``h`` is there, below.

    Args:
        surrogate: "leaky_relu" (slope 0.1 below zero), "softplus" or "linear".
        strength: cost of ``h(v)``, in units of the loss; None takes one divided by the number of all ``v``.
        start: every first ``v``, above 0.
        learning_rate: of Adam, on ``v``; a unit can go after ``start / learning_rate`` steps at the earliest.

    Raises:
        PruningError: an argument is out of its range, or the surrogate is unknown.

    Source: Xiao, Wang, Rajasekaran 2019, "AutoPrune: Automatic Network Pruning by Regularizing Auxiliary Parameters".
    The slopes of the surrogates and the form of the cost are not verified: a documented variant. The paper learns ``v``
    on held-out data; here weights and ``v`` learn on the same batches.
    """

    surrogate: str = "leaky_relu"
    strength: float | None = None
    start: float = 0.1
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate, start=self.start)
        if self.surrogate not in SURROGATES:
            raise PruningError(f"surrogate: expected one of {', '.join(SURROGATES)}, got {self.surrogate!r}")
        if self.strength is not None and self.strength < 0:
            raise PruningError(f"strength: expected at least 0, got {self.strength!r}")

    @property
    def cut(self) -> float:
        """Zero."""
        return 0.0

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``v``, one per unit."""
        return {"v": filled(number_units(state, site), self.start, weight)}

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the weights whose ``v`` is above 0; ``v`` gets the coarse gradient."""
        open_ = over_weights(site, (gates["v"] > 0).to(gates["v"].dtype))
        soft = SURROGATES[self.surrogate](gates["v"])
        return weight * open_ + weight.detach().sign() * over_weights(site, soft - soft.detach(), 0.0)

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the surrogates, times the strength."""
        strength = self.share_of(state) if self.strength is None else self.strength
        return self.pressure(state) * strength * SURROGATES[self.surrogate](gates["v"]).sum()

    def importance(self, site: Site) -> Tensor:
        """Return ``v``."""
        return site.tensors[GATE + "v"]

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the learned weights: what stays has an open gate."""
        return site.tensors[LATENT].clone()
