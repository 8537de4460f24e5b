"""More for the layers with many weights per unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation


@dataclass(frozen=True)
class ERK(Allocation):
    """Density in proportion to ``sum(dims) / prod(dims)`` of a weight: large layers lose more.

    A layer whose density would exceed 1 stays dense, and the others carry what it does not lose.

    Source: Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery", section 3(1), kernel dimensions included.
    """

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``1 - density`` from the shapes alone; see :meth:`Allocation.sparsities`."""
        size = {name: weight.numel() for name, weight in scores.items() if weight.numel()}
        raw = {name: sum(scores[name].shape) / size[name] for name in size}
        kept = (1.0 - check_sparsity(sparsity)) * sum(size.values())
        dense: set[str] = set()
        while True:
            open_layers = [name for name in size if name not in dense]
            room = kept - sum(size[name] for name in dense)
            scale = room / sum(raw[name] * size[name] for name in open_layers) if open_layers else 0.0
            full = {name for name in open_layers if scale * raw[name] > 1.0}
            if not full:
                break
            dense |= full
        return {name: 1.0 - scale * raw[name] if name in size and name not in dense else 0.0 for name in scores}
