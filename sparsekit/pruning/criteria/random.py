"""Keep at random: the control of every other criterion."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class Random(Criterion):
    """Scores drawn uniformly from [0, 1).

    They depend on the seed and the parameter's name alone: not on the global generator, the order of layers, the
    device or the rank.
    """

    seed: int = 0

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Draw one number per weight; see :meth:`Criterion.score`."""
        digest = hashlib.sha256(f"{self.seed}:{stats.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
