"""The same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same sparsity everywhere.

    Args:
        first_dense: the first layer loses nothing, and the others make up for it, so that the total is as asked. (RigL,
            which keeps the first layer dense too, lets the total fall short by what that layer would have lost.)

    Source: Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery", section 3(1), for the dense first layer.
    """

    first_dense: bool = False

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``sparsity`` for each layer, or 0 and a little more; see :meth:`Allocation.sparsities`."""
        fraction = check_sparsity(sparsity)
        first = next((name for name, weight in scores.items() if weight.numel()), None)
        if not self.first_dense or first is None:
            return dict.fromkeys(scores, fraction)
        total = sum(weight.numel() for weight in scores.values())
        others = total - scores[first].numel()
        if fraction * total > others:
            raise PruningError(
                f"{self}: expected a sparsity that is possible with {first} dense, at most {others / total:.4g}, "
                f"got {fraction:g}"
            )
        return dict.fromkeys(scores, fraction * total / others if others else 0.0) | {first: 0.0}
