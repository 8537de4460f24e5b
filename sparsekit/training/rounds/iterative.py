"""Train, prune, fine-tune, and again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.rounds.base import RoundMethod, check_rounds
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive


@dataclass(frozen=True)
class IterativePruning(RoundMethod):
    """Trains, removes the weights that matter least, fine-tunes the others, and repeats; weights are kept as they are.

    Under ``attach`` the run has one phase more than rounds, all of the same length, and each round removes the same
    fraction of what is left; the learning rates are the user's. Without a sparsity, a round removes what is smaller
    than ``quality`` standard deviations of its layer, zeros counted; a unit of several weights is judged by their mean
    magnitude. (The paper counts whole trainings; five rounds are usual, and the threshold by the deviation of all
    weights of the layer, removed ones too, is a documented variant.)

    Args:
        criterion: what is removed where there is a sparsity.
        rounds: prunings.
        quality: the threshold where there is none, in standard deviations; 1 removes about two thirds of normally
            distributed weights in the first round.

    Raises:
        PruningError: an argument is out of its range.

    Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks",
    section 3.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    rounds: int = 5
    quality: float = 1.0
    fraction: None = field(default=None, init=False, repr=False)
    rewind: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        check_positive(quality=self.quality)

    def go_back(self, state: State) -> None:
        """Go on with the weights, the optimizer and its learning rates as they are."""

    def decide(self, state: State, site: Site) -> Tensor:
        """Return what is not smaller than the threshold, of what has stayed so far."""
        weight = site.read().to(torch.promote_types(site.weight.dtype, torch.float32))
        size = site.pattern.pool(torch.ones_like(weight))
        scores = weight.abs()
        small = site.pattern.pool(scores) < self.quality * weight.std(correction=0) * size
        if site.held:
            small |= site.pattern.pool(site.keep.to(weight.dtype)) == 0
            scores = scores.masked_fill(~site.keep, -torch.inf)
        return site.pattern.choose(scores, int(small.sum()))
