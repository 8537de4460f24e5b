"""Toss a coin for every unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.random import Random
from sparsekit.pruning.seeding import generator
from sparsekit.pruning.statistics import LayerStatistics


@dataclass(frozen=True)
class RandomBernoulli(Criterion):
    """Each unit stays with probability ``1 - sparsity``, independent of the others: how many go is random too.

    The count is drawn first, from its binomial distribution, and then which units: together these are independent
    coins, whatever the pattern. Where the pattern fixes its own sparsity only the choice is random, as with ``Random``.

    Source: Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?", whose
    ShrinkBench has random pruning as a baseline.
    """

    seed: int = 0

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Draw one number per weight; see :meth:`Criterion.score`."""
        return Random(self.seed).score(weight, stats)

    def share(self, name: str, units: Tensor, share: float) -> float:
        """Return the fraction of units whose coin says that they go; see :meth:`Criterion.share`."""
        coins = torch.rand(units.numel(), generator=generator(self.seed, f"{name}:count"), dtype=torch.float64)
        return int((coins < share).sum()) / max(1, units.numel())
