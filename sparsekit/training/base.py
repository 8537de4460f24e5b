"""What a training method is: something that prunes while the user's own loop trains."""

from __future__ import annotations

import dataclasses
from abc import ABC
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.allocations import Allocation, Uniform
from sparsekit.pruning.criteria import Criterion
from sparsekit.training.site import Site
from sparsekit.training.state import State


class TrainingMethod(ABC):  # noqa: B024 - every moment of a run has a default
    """Prunes step by step, between the backward pass and the next forward pass.

    Subclasses are frozen dataclasses: what they remember about a run lives in :class:`State` and its sites, so that
    it is saved and restored without a line in the method. The moments of a run, in order: :meth:`prepare` once; then
    per step :meth:`penalty` in the user's loss, :meth:`before_step` when gradients are there, the optimizer's step,
    :meth:`after_step`; and :meth:`harden` and :meth:`close` once, after the last step or when the user finishes.
    """

    default_pattern: ClassVar[Pattern] = Unstructured()
    default_allocation: ClassVar[Allocation] = Uniform()

    has_penalty: ClassVar[bool] = False
    """Whether the method works through the loss term that :meth:`penalty` returns."""

    learns_sparsity: ClassVar[bool] = False
    """Whether the method can do without a sparsity: it then removes what :meth:`decide` says."""

    redistributes: ClassVar[bool] = False
    """Whether the method moves weights between layers: only the sum over all is then as asked."""

    def criteria(self) -> list[Criterion]:
        """Return the criteria among the settings: what they read of data is asked for before the run begins.

        Raises:
            PruningError: a setting whose default is a criterion is something else.
        """
        found = []
        for setting in dataclasses.fields(self):  # type: ignore[arg-type]
            value, make = getattr(self, setting.name), setting.default_factory
            usual = setting.default if make is dataclasses.MISSING else make()
            if isinstance(value, Criterion):
                found.append(value)
            elif isinstance(value, TrainingMethod):
                found += value.criteria()
            elif isinstance(usual, Criterion):
                hint = f"; write {value.__name__}(...)" if isinstance(value, type) else ""
                raise PruningError(f"{setting.name}: expected a Criterion, got {value!r}{hint}")
        return found

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Say in half a sentence why a weight of ``shape`` cannot be pruned to ``pattern``; None where it can."""
        return None

    def check(self, state: State) -> None:  # noqa: B027 - optional
        """Raise :class:`PruningError` where the method's settings do not fit the run, before anything changes."""

    def prepare(self, state: State) -> None:  # noqa: B027 - optional
        """Start: choose first masks, remember first weights."""

    def penalty(self, state: State) -> Tensor | None:
        """Return what is added to the loss, differentiable, a scalar; None for nothing."""
        return None

    def before_step(self, state: State) -> None:  # noqa: B027 - optional
        """Look at gradients, or change them: they are unscaled, clipped as the user does it, and averaged over ranks.

        Where a site is held, gradients of removed weights are set to zero after this.
        """

    def after_step(self, state: State) -> None:  # noqa: B027 - optional
        """Look at new weights, change masks. Where a site is held, its removed weights are zero already."""

    def follow(self, state: State) -> None:  # noqa: B027 - optional
        """Bring ``site.keep`` to what would go now, where nothing is held; called when somebody looks."""

    def harden(self, state: State) -> None:
        """Choose the final masks, and hold them."""
        state.hold(self.final(state))

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what stays in the end: by rank where a sparsity or a pattern says how much, else by :meth:`decide`."""
        if state.sparsity is None and not state.pattern.fixes_sparsity:
            return {site.name: self.decide(state, site) for site in state.sites}
        return state.choose(self.scores(state), state.sparsity)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return what final masks are ranked by, of each weight's shape, higher = keep: ``|w|``."""
        return state.magnitudes()

    def decide(self, state: State, site: Site) -> Tensor:
        """Return what of ``site`` stays by the method's own judgement: bool, of the weight's shape, legal."""
        raise PruningError(f"{self}: expected a sparsity, got None")

    def evaluating(self, state: State) -> AbstractContextManager[None]:
        """Show the model the weights that it would have if the run ended now, without noise, for a while."""
        return nullcontext()

    def abandon(self, state: State) -> None:  # noqa: B027 - optional
        """Leave the weights as the last masks want them: gradients are not finite, and the run stops pruning."""

    def close(self, state: State) -> None:  # noqa: B027 - optional
        """Take back what was put on the model: the run has ended, or prunes no more. May be called again."""


def check_every(**numbers: int) -> None:
    """Raise :class:`PruningError` unless each argument is a whole number of steps, at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise PruningError(f"{name}: expected a whole number of steps, at least 1, got {value!r}")


def check_ranking(state: State, criterion: Criterion) -> None:
    """Raise :class:`PruningError` unless ``criterion`` ranks to a sparsity, and over layers if the allocation does."""
    if criterion.sets_sparsity:
        raise PruningError(f"criterion: expected one that ranks to a given sparsity, got {criterion}")
    if criterion.by_row and state.allocation.compares_scores:
        raise PruningError(f"{state.allocation} compares layers, and scores of {criterion} compare within a row only")
