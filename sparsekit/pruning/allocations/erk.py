"""More for the layers with many weights per unit, kernels included."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsekit.pruning.allocations.erdos_renyi import ErdosRenyi


@dataclass(frozen=True)
class ERK(ErdosRenyi):
    """Density in proportion to ``sum(dims) / prod(dims)`` of a weight: large layers lose more.

    A layer whose density would exceed 1 stays dense, and the others carry what it does not lose.

    Args:
        minimum: smallest density of a layer, in [0, 1).

    Raises:
        PruningError: ``minimum`` is outside [0, 1).

    Source: Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery", section 3(1), kernel dimensions included.
    """

    def ratio(self, shape: tuple[int, ...]) -> float:
        """What the density of a weight of ``shape`` is proportional to."""
        return sum(shape) / math.prod(shape)
