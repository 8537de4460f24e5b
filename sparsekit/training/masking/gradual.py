"""More and more zeros while the model trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.base import TrainingMethod, check_every
from sparsekit.training.schedules import Cubic
from sparsekit.training.state import State, check_fraction


@dataclass(frozen=True)
class GradualPruning(TrainingMethod):
    """Raises the sparsity along a cubic, choosing anew among all weights as they are every few steps.

    What goes is zero from then on, but its score is that of a weight that no longer trains: it can come back only by
    the scores of the others falling below zero, so in effect it stays away. A pattern that fixes its own sparsity is
    chosen anew until the ramp ends.

    Args:
        criterion: what is removed; one that needs data reads the batches that were attached.
        begin: share of the run before the first choice, in [0, 1].
        end: share of the run when the ramp ends, in [0, 1].
        every: steps between two choices.
        initial: sparsity at ``begin``, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Zhu, Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    equation 1; Gale, Elsen, Hooker 2019, "The State of Sparsity in Deep Neural Networks", section 3.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    begin: float = 0.0
    end: float = 0.75
    every: int = 10
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_fraction(begin=self.begin, end=self.end, initial=self.initial)
        check_every(every=self.every)
        if self.begin > self.end:
            raise PruningError(f"end: expected a share of the run from begin={self.begin} on, got {self.end}")

    def schedule(self, state: State) -> Cubic:
        """Return sparsity by step."""
        return Cubic(self.initial, state.sparsity or 0.0, self.begin * state.steps, self.end * state.steps)

    def after_step(self, state: State) -> None:
        """Choose anew where it is time to."""
        schedule, step = self.schedule(state), state.step + 1
        last = step >= schedule.end > step - 1
        if schedule.begin <= step <= schedule.end and (step % self.every == 0 or last):
            state.hold(state.choose(self.scores(state), schedule.value(step), self.criterion.by_row))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores of the model as it is."""
        return state.scores(self.criterion)

    def harden(self, state: State) -> None:
        """Choose the final masks where the ramp has not ended; else keep those that the model was trained with."""
        if state.step < self.schedule(state).end or not all(site.held for site in state.sites):
            super().harden(state)
