"""One ranking across all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.patterns.base import check_sparsity, keep_highest, removed
from sparsekit.pruning.allocations.base import Allocation


@dataclass(frozen=True)
class Global(Allocation):
    """One ranking across all layers: exactly ``floor(sparsity * units)`` units go, wherever the lowest scores are.

    Among equal scores the earlier layer, and in it the lower index, stays.

    Source: Lee, Ajanthan, Torr 2019, "SNIP", eq. 6, ranks across layers; scores are taken as they are.
    """

    compares_scores: ClassVar[bool] = True

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the fraction of each layer's units below the common threshold; see :meth:`Allocation.sparsities`."""
        if not scores:
            return {}
        device = next(iter(scores.values())).device
        ranked = torch.cat([units.reshape(-1).to(device, torch.float64) for units in scores.values()])
        count = ranked.numel() - removed(check_sparsity(sparsity), ranked.numel())
        kept = keep_highest(ranked.reshape(1, -1), count).reshape(-1)
        sizes = [units.numel() for units in scores.values()]
        counts = [int(part.sum()) for part in torch.split(kept, sizes)]
        return {name: (size - count) / size if size else 0.0 for name, size, count in zip(scores, sizes, counts)}
