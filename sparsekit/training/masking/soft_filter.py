"""Filters that are set to zero again and again, and may come back each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns import Filter, Pattern
from sparsekit.pruning.criteria import Criterion, FilterNorm
from sparsekit.training.base import TrainingMethod, check_every, check_ranking
from sparsekit.training.state import State


@dataclass(frozen=True)
class SoftFilterPruning(TrainingMethod):
    """Sets the filters of the smallest norm to zero every few steps, and goes on training all of them.

    What was set to zero has its gradients and its momentum, so it grows again, and is chosen anew by its norm the next
    time. Only at the end the last choice is held. Every layer loses the same share. Biases and batch norms are not
    touched: a filter of zeros still passes on their constant. The filters of the last layer are the model's answers:
    ``layers=`` should leave it out.

    Args:
        criterion: what ranks the units; the default is the L2 norm of each filter. With a pattern of other units than
            whole filters, one such as ``Magnitude()`` says better what is meant.
        every: steps between two choices, an epoch in the paper; None = a 20th of the run.

    Raises:
        PruningError: an argument is not what is expected.

    Source: He, Kang, Dong, Fu, Yang 2018, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
    algorithm 1; its rate of 0.7 to 0.9 is what stays, so it is one minus the sparsity.
    """

    criterion: Criterion = field(default_factory=lambda: FilterNorm(p=2))
    every: int | None = None
    default_pattern: ClassVar[Pattern] = Filter()

    def __post_init__(self) -> None:
        if self.every is not None:
            check_every(every=self.every)

    def check(self, state: State) -> None:
        """Refuse a criterion that does not rank."""
        check_ranking(state, self.criterion)

    def after_step(self, state: State) -> None:
        """Set what is smallest now to zero, where it is time to; nothing is held."""
        step, every = state.step + 1, self.every or max(1, state.steps // 20)
        if step % every or step >= state.steps:
            return
        keeps = self.final(state)
        for site in state.sites:
            site.propose(keeps[site.name])
            site.write(site.read().masked_fill(~site.keep, 0.0))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores of the model as it is."""
        return state.scores(self.criterion)

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what stays if the choice is made now."""
        return state.choose(self.scores(state), state.sparsity, self.criterion.by_row)

    @contextmanager
    def evaluating(self, state: State) -> Iterator[None]:
        """Show the model without what would go now."""
        before = {site.name: site.read() for site in state.sites}
        keeps = self.final(state)
        try:
            for site in state.sites:
                site.write(before[site.name].masked_fill(~keeps[site.name], 0.0))
            yield
        finally:
            for site in state.sites:
                site.write(before[site.name])

    def abandon(self, state: State) -> None:
        """Hold the last choice."""
        state.hold({site.name: site.keep for site in state.sites})
