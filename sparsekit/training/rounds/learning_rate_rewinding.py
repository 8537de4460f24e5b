"""Prune, and train on with the learning rates of an earlier time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.rounds.base import RoundMethod, check_open, check_part, check_rounds
from sparsekit.training.rounds.rates import forget
from sparsekit.training.state import State


@dataclass(frozen=True)
class LearningRateRewinding(RoundMethod):
    """Removes a fifth of what is left, and trains on with the learning rates that the first phase ended with.

    Of a first phase of T steps, each later one repeats the learning rates of the last t, and keeps the weights. They
    are recorded from the optimizer's parameter groups; in later phases they are set for the step alone, so that a
    schedule of the user goes its own way. With ``count = method.count(sparsity)``, a run in which the first phase has T
    steps takes ``method.total_steps(T, count)``.

    Args:
        criterion: what is removed.
        rounds: prunings, each of which removes the same fraction of what is left; None = as many as ``fraction``
            takes to the sparsity, or as fit into the run, or 5 where there is no sparsity.
        fraction: share of the survivors that a round removes, in (0, 1); the last round meets the sparsity exactly.
        rewind: share of the first phase that later ones skip, (T - t) / T, in [0, 1). The paper's t is a large part
            of the training.
        keep_momentum: the optimizer goes on with what it remembers of the surviving weights; otherwise it starts anew.

    Raises:
        PruningError: an argument is out of its range.

    Source: Renda, Frankle, Carbin 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", section 2.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    rounds: int | None = None
    fraction: float = 0.2
    rewind: float = 0.1
    keep_momentum: bool = False
    replays: ClassVar[bool] = True
    default_allocation: ClassVar[Allocation] = Global()

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        check_part(rewind=self.rewind)
        check_open(fraction=self.fraction)

    def go_back(self, state: State) -> None:
        """Clear the momentum, where that is wanted."""
        if not self.keep_momentum:
            forget(state)
