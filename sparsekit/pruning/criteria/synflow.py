"""Keep what flows, without data and before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import LayerStatistics, Needs, SynapticFlow


@dataclass(frozen=True)
class SynFlow(Criterion):
    """``|w| * |dR/d|w||``, ``R`` the sum of the outputs for ones as the input, all parameters made positive.

    In a network of Linear, Conv2d and ReLU without biases, the scores of each layer sum to ``R``: no layer can be
    starved, as long as scores are taken anew in each of many rounds. Batches give the shape of the input, and the token
    ids of a model that takes some; see :class:`~sparsekit.pruning.statistics.SynapticFlow`. There is no loss. With
    saturating activations (tanh, softmax) nothing is conserved. Meant for ``Global``; a pattern that fixes its sparsity
    takes one round.

    Args:
        rounds: the density falls geometrically from round to round, and what has gone stays gone.

    Raises:
        PruningError: ``rounds`` is smaller than 1.

    Source: Tanaka, Kunin, Yamins, Ganguli 2020, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", algorithm 1.
    """

    rounds: int = 100
    needs: ClassVar[Needs] = (SynapticFlow,)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise PruningError(f"SynFlow: expected rounds >= 1, got {self.rounds}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return what flows through each weight, float64; see :meth:`Criterion.score`."""
        return (weight.double() * stats[SynapticFlow].gradient).abs()
