"""What the methods that put a distribution on weights share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.gates.unit_gates import UnitGates
from sparsekit.training.schedules import Linear
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive


class BayesianMethod(UnitGates):
    """Learns a distribution of each weight, and pays for its divergence from a prior that prefers zeros.

    The bound on the evidence is the log-likelihood of all data minus the divergence. So the cost that is added to a
    mean loss is the divergence divided by the number of examples, times a factor that grows from 0 to 1.
    """

    data_size: int
    """Examples in the training set."""

    warm_up: float
    """Share of the run in which the factor grows."""

    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        check_fraction(warm_up=self.warm_up)
        if not isinstance(self.data_size, int) or self.data_size < 1:
            raise PruningError(f"data_size: expected the examples in the training set, got {self.data_size!r}")

    @abstractmethod
    def divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the divergence, from its prior, of what decides which units stay: a scalar, for one layer."""

    def other_divergence(self, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor | float:
        """Return the divergence of what else is learned about a layer; the pressure leaves it alone."""
        return 0.0

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the divergence times the factor, per example."""
        factor = Linear(0.0, 1.0, 0.0, self.warm_up * state.steps).value(state.step)
        state.note("divergence_factor", factor)
        total = self.pressure(state) * self.divergence(site, weight, gates)
        return factor / self.data_size * (total + self.other_divergence(site, weight, gates))
