"""The same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same sparsity everywhere."""

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``sparsity`` for each layer; see :meth:`Allocation.sparsities`."""
        return dict.fromkeys(scores, check_sparsity(sparsity))
