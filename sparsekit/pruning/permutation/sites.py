"""Where channels of one leaf meet the pattern: the dimensions of pruned weights that can be reordered together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.patterns import Pattern


@dataclass
class Site:
    """One dimension of one weight's scores, of which some indices belong to channels that can trade places.

    Args:
        name: of the weight.
        scores: ``(out, in, ...)`` in the weight's order now; reordered in place.
        dim: the dimension.
        index: ``(channels, repeats)``: the indices of each channel.
    """

    name: str
    scores: Tensor
    dim: int
    index: Tensor

    def lines(self, values: Tensor) -> Tensor:
        """The part of ``values``, of the scores' shape, that belongs to each channel: ``(channels, numbers)``."""
        taken = values.index_select(self.dim, self.index.reshape(-1).to(values.device)).movedim(self.dim, 0)
        return taken.reshape(len(self.index), -1)

    def move(self, order: Tensor) -> None:
        """Put channel ``order[i]`` at place ``i``."""
        reorder(self.scores, self.dim, self.index, order)


def reorder(values: Tensor, dim: int, index: Tensor, order: Tensor) -> None:
    """In dimension ``dim`` of ``values``, put what is at ``index[order[i]]`` to ``index[i]``, in place."""
    places = torch.arange(values.shape[dim])
    places[index.reshape(-1)] = index[order].reshape(-1)
    values.copy_(values.index_select(dim, places.to(values.device)))


def kept(scores: Tensor, pattern: Pattern, sparsity: float | None) -> float:
    """The sum of the scores that ``pattern`` keeps, in float64."""
    return float(scores[pattern.select(scores, sparsity)].double().sum())


def total(sites: Sequence[Site], pattern: Pattern, sparsity: float | None) -> float:
    """The kept score of all weights of ``sites``, each counted once."""
    distinct = {id(site.scores): site.scores for site in sites}
    return sum(kept(scores, pattern, sparsity) for scores in distinct.values())
