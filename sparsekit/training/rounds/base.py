"""What pruning in rounds is: train, then remove a part of what is left, and train again."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.pruning.criteria import Criterion
from sparsekit.training.base import TrainingMethod, check_ranking
from sparsekit.training.rounds.rates import put_back, record, replay
from sparsekit.training.schedules import geometric_sparsity
from sparsekit.training.state import State

PRUNED = "pruned"
USUAL = 5
"""Rounds where neither a number of them nor a sparsity says how many."""


class RoundMethod(TrainingMethod):
    """Prunes a trained model, and trains what is left; each mask lies within the one before.

    Under ``attach`` the run is divided: a first phase trains the dense model for :meth:`dense_steps`, and each pruning
    is followed by a phase that is shorter by the part that :attr:`rewind` skips. Steps that are left over by rounding
    belong to the last one. A pattern that fixes its own sparsity is reached by one pruning, whatever :attr:`rounds` is.
    """

    learns_sparsity: ClassVar[bool] = True

    criterion: Criterion
    rounds: int | None
    fraction: float | None
    """Share of the survivors that a round removes where the number of rounds is open."""

    rewind: float
    """Share of the first phase that later phases do not repeat, in [0, 1)."""

    replays: ClassVar[bool] = False
    """Whether later phases use the learning rates of the first one, from where they are rewound to."""

    rewinds_weights: ClassVar[bool] = False
    """Whether :meth:`go_back` sets weights back to what :meth:`remember` kept."""

    def count(self, sparsity: float | None = None, pattern: Pattern | None = None) -> int:
        """Return how many times is pruned for ``sparsity``; training phases are one more."""
        if pattern is not None and pattern.fixes_sparsity:
            return 1
        if self.rounds is not None:
            return self.rounds
        if sparsity is None or self.fraction is None:
            return USUAL
        return max(1, math.ceil(math.log(1.0 - sparsity) / math.log(1.0 - self.fraction) - 1e-9))

    def total_steps(self, dense: int, count: int) -> int:
        """Return the optimizer steps of a run with ``count`` prunings whose first phase has ``dense`` steps."""
        return dense + count * (dense - self.rewound_step(dense))

    def dense_steps(self, steps: int, count: int) -> int:
        """Return the steps of the first phase of a run of ``steps``: the most that :meth:`total_steps` can afford.

        A learning rate schedule that is to be rewound ends there.
        """
        dense = math.ceil(steps / (1.0 + count * (1.0 - self.rewind))) + 1
        while dense > 1 and self.total_steps(dense, count) > steps:
            dense -= 1
        return dense

    def rewound_step(self, dense: int) -> int:
        """Return the step of the first phase, of ``dense`` steps, that later phases begin with."""
        return min(dense - 1, math.floor(self.rewind * dense + 1e-9))

    def check(self, state: State) -> None:
        """Raise :class:`PruningError` where a phase would have no step, or the criterion does not rank."""
        check_ranking(state, self.criterion)
        if self.rounds is not None and state.steps <= self._prunings(state):
            raise PruningError(f"rounds: expected fewer than the {state.steps} steps of the run, got {self.rounds}")

    def prepare(self, state: State) -> None:
        """Remember what later phases begin with, where that is the first step."""
        state.numbers[PRUNED] = 0
        if self.rewound_step(self._dense(state)) == 0:
            self.remember(state)

    def before_step(self, state: State) -> None:
        """Record the learning rates of the first phase, and use them again in later ones."""
        if not self.replays:
            return
        dense = self._dense(state)
        if state.step < dense:
            record(state)
        else:
            replay(state, min(self._repeated(state, dense), dense - 1))

    def after_step(self, state: State) -> None:
        """Remember where it is rewound to; prune at the end of a phase."""
        put_back(state)
        dense, step = self._dense(state), state.step + 1
        start = self.rewound_step(dense)
        if step == start:
            self.remember(state)
        done = state.numbers[PRUNED]
        if done < self._prunings(state) and step == self.total_steps(dense, done):
            self.prune(state, self._prunings(state))

    def harden(self, state: State) -> None:
        """Keep the last mask; where the user has ended the run before it was there, choose it now."""
        if state.numbers[PRUNED] < self._prunings(state) or not all(site.held for site in state.sites):
            state.hold(self.final(state))

    def prune(self, state: State, count: int) -> None:
        """Do the next of ``count`` prunings, and rewind what the method rewinds."""
        state.numbers[PRUNED] += 1
        sparsity = self.sparsity_after(state, state.numbers[PRUNED], count)
        state.hold(self.masks(state, sparsity))
        self.go_back(state)
        for site in state.sites:
            site.enforce()
        state.note("round", state.numbers[PRUNED])

    def remember(self, state: State) -> None:
        """Keep what :meth:`go_back` needs: the model is where it will be rewound to."""

    @abstractmethod
    def go_back(self, state: State) -> None:
        """Rewind weights or the optimizer, after a pruning; removed weights are set to zero after this."""

    def sparsity_after(self, state: State, done: int, count: int) -> float | None:
        """Return the sparsity after ``done`` of ``count`` prunings; the last one meets the target exactly."""
        target = state.sparsity
        if target is None and self.fraction is not None:
            target = 1.0 - (1.0 - self.fraction) ** count
        if target is None or done >= count:
            return target
        if self.rounds is None and self.fraction is not None and count == self.count(state.sparsity, state.pattern):
            return min(target, 1.0 - (1.0 - self.fraction) ** done)
        return geometric_sparsity(target, done / count)

    def masks(self, state: State, sparsity: float | None) -> dict[str, Tensor]:
        """Return what stays at ``sparsity``, of what has stayed so far."""
        if state.pattern.fixes_sparsity and all(site.held for site in state.sites):
            return {site.name: site.keep for site in state.sites}
        if sparsity is None and not state.pattern.fixes_sparsity:
            return {site.name: self.decide(state, site) for site in state.sites}
        return state.choose(self.scores(state), sparsity, self.criterion.by_row)

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what would stay if the model were pruned to the target now."""
        count = self._prunings(state)
        return self.masks(state, self.sparsity_after(state, count, count))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the criterion's scores; what is gone already ranks lowest."""
        found = state.scores(self.criterion)
        return {
            s.name: found[s.name].masked_fill(~s.keep, -torch.inf) if s.held else found[s.name] for s in state.sites
        }

    def _prunings(self, state: State) -> int:
        """How many times is pruned in the run: where it is too short for the usual number, after every step."""
        count = self.count(state.sparsity, state.pattern)
        return count if self.rounds is not None else min(count, state.steps - 1)

    def _dense(self, state: State) -> int:
        return self.dense_steps(state.steps, self._prunings(state))

    def _repeated(self, state: State, dense: int) -> int:
        """The step of the first phase that the step under way repeats."""
        start = self.rewound_step(dense)
        return start + state.step - self.total_steps(dense, state.numbers[PRUNED] - 1)


def check_rounds(rounds: int | None) -> None:
    """Raise :class:`PruningError` unless ``rounds`` is None or a whole number of prunings, at least 1."""
    if rounds is not None and (not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1):
        raise PruningError(f"rounds: expected a whole number of prunings, at least 1, got {rounds!r}")


def check_open(**shares: float) -> None:
    """Raise :class:`PruningError` unless each argument is in (0, 1)."""
    for name, value in shares.items():
        if not 0.0 < value < 1.0:
            raise PruningError(f"{name}: expected a share in (0, 1), got {value!r}")


def check_part(**shares: float) -> None:
    """Raise :class:`PruningError` unless each argument is in [0, 1)."""
    for name, value in shares.items():
        if not 0.0 <= value < 1.0:
            raise PruningError(f"{name}: expected a share in [0, 1), got {value!r}")
