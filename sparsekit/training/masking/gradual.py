"""More and more zeros while the model trains."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.base import TrainingMethod, check_every, check_ranking
from sparsekit.training.schedules import Cubic
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction

STORED = "stored"


@dataclass(frozen=True)
class GradualPruning(TrainingMethod):
    """Raises the sparsity along a cubic, choosing anew among all weights every few steps.

    A removed weight is zero in the model, and the value that it had is stored: later choices rank that value with the
    others, and where it is chosen again, it returns with it. Statistics of criteria that read data are those of the
    pruned model. At the end of the ramp the masks are fixed and the stored values forgotten. A pattern that fixes its
    own sparsity is chosen from ``begin`` on, and anew until the ramp ends.

    Args:
        criterion: what is removed; one that needs data reads the batches that were attached.
        begin: share of the run before the first choice, in [0, 1].
        end: share of the run when the ramp ends, in [0, 1].
        every: steps between two choices, counted from the first; the last is at the end of the ramp.
        initial: sparsity of the first choice, in [0, 1) and at most that of the run.

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

    def check(self, state: State) -> None:
        """Refuse a first sparsity above the last, and a criterion that does not rank."""
        if self.initial > (state.sparsity or 0.0):
            most = f"at most the sparsity {state.sparsity}" if state.sparsity else f"0 with {state.pattern}"
            raise PruningError(f"initial: expected {most}, got {self.initial}")
        check_ranking(state, self.criterion)

    def schedule(self, state: State) -> Cubic:
        """Return sparsity by finished steps."""
        return Cubic(
            self.initial, state.sparsity or 0.0, round(self.begin * state.steps), round(self.end * state.steps)
        )

    def prepare(self, state: State) -> None:
        """Choose at once where the ramp begins with the run."""
        self._act(state, 0)

    def after_step(self, state: State) -> None:
        """Choose anew where it is time to."""
        self._act(state, state.step + 1)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores of the weights, where removed ones have the value that is stored."""
        return state.scores(self.criterion, {site.name: dense(site) for site in state.sites})

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the masks of the end of the ramp, or what they would be if it ended now."""
        if state.step >= self.schedule(state).end:
            return {site.name: site.keep for site in state.sites}
        return state.choose(self.scores(state), state.sparsity, self.criterion.by_row)

    def harden(self, state: State) -> None:
        """Fix the final masks."""
        self._hold(state, self.final(state))
        self._forget(state)

    def abandon(self, state: State) -> None:
        """Forget what was stored: the masks stay as they are."""
        self._forget(state)

    def _act(self, state: State, step: int) -> None:
        """Choose if ``step`` finished steps are one of those when the paper does."""
        ramp = self.schedule(state)
        if not ramp.begin <= step <= ramp.end:
            return
        if step == ramp.end or (step - ramp.begin) % self.every == 0:
            sparsity = ramp.value(step)
            self._hold(state, state.choose(self.scores(state), sparsity, self.criterion.by_row))
            state.note("target_sparsity", sparsity)
        if step == ramp.end:
            self._forget(state)

    def _hold(self, state: State, keeps: dict[str, Tensor]) -> None:
        """Hold ``keeps``: what goes is stored, what comes gets its value back."""
        for site in state.sites:
            stored = site.tensors[STORED] = dense(site)
            site.hold(keeps[site.name], state.optimizer)
            site.write(stored.masked_fill(~site.keep, 0.0))

    def _forget(self, state: State) -> None:
        for site in state.sites:
            site.tensors.pop(STORED, None)


def dense(site: Site) -> Tensor:
    """Return the weight as if nothing had been removed: kept weights as they are, removed ones as they were."""
    stored = site.tensors.get(STORED)
    return site.read() if stored is None else torch.where(site.keep, site.read(), stored)
