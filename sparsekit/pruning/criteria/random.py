"""Keep at random: the control of every other criterion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.seeding import generator
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class Random(Criterion):
    """Scores drawn uniformly from [0, 1): exactly as many weights go as were asked for.

    They depend on the seed and the parameter's name alone: not on the global generator, the order of layers, the
    device or the rank.
    """

    seed: int = 0

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Draw one number per weight; see :meth:`Criterion.score`."""
        drawn = torch.rand(weight.shape, generator=generator(self.seed, stats.name), dtype=torch.float64)
        return drawn.to(weight.device)
