"""Grow where momentum says that the error would fall."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.growth.base import Counts, DynamicSparseTraining
from sparsekit.training.growth.moves import in_proportion, units_in
from sparsekit.training.schedules import Cosine
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction

MOMENTUM = "momentum"
FULL = 0.99
"""Of the room in a layer, the most that it takes at once."""
NEARLY_DENSE = 0.2
"""Sparsity below which a layer that is to grow drops no larger share than it has zeros."""


@dataclass(frozen=True)
class SNFS(DynamicSparseTraining):
    """Drops the smallest magnitudes, and grows the largest momentum, most in layers whose weights have most of it.

    A layer drops the share ``p`` of its units, rounded up, which falls from ``start`` to ``stop`` along a cosine over
    the whole run. What all have dropped is shared out by the mean ``|momentum|`` of the kept weights of each layer; a
    layer takes at most 0.99 of its room, and the others the rest. In a layer the largest ``|momentum|`` among its zeros
    grow. A layer of less than 0.2 zeros whose share is above the mean drops no larger share than it has zeros. Where
    the pattern fixes its own sparsity, nothing moves between layers.

    The momentum is an average of the dense gradients that the run keeps for itself, of every weight: optimizers have
    none for removed weights. The paper reads it from the optimizer, and with Adam divides by the root of its second
    moment. Masks start random with the same density in all layers, and exactly that.

    Args:
        every: steps between two changes, an epoch in the paper; None = a 20th of the run, at most 100.
        end: share of the run after which masks stay as they are, in [0, 1].
        start: share that is dropped at the start, in [0, 1].
        stop: share that would be dropped at the last step, in [0, 1].
        decay: of the momentum, in [0, 1).

    Raises:
        PruningError: an argument is out of its range.

    Source: Dettmers, Zettlemoyer 2019, "Sparse Networks from Scratch: Faster Training without Losing Performance",
    algorithm 1, and its code for the limits.
    """

    start: float = 0.5
    stop: float = 0.005
    decay: float = 0.9
    redistributes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(start=self.start, stop=self.stop)
        if not 0 <= self.decay < 1:
            raise PruningError(f"decay: expected a number in [0, 1), got {self.decay!r}")

    def prepare(self, state: State) -> None:
        """Hold random masks, and start without momentum."""
        super().prepare(state)
        for site in state.sites:
            wide = torch.promote_types(site.weight.dtype, torch.float32)
            site.tensors[MOMENTUM] = torch.zeros(site.shape, dtype=wide, device=site.keep.device)

    def observe(self, state: State) -> None:
        """Average the dense gradients."""
        for site in state.sites:
            momentum = site.tensors[MOMENTUM]
            momentum.lerp_(site.gradient().to(momentum.dtype), 1.0 - self.decay)

    def fraction(self, state: State) -> float:
        """Return the share that is dropped in the step to come."""
        return Cosine(self.start, self.stop, 0, state.steps).value(state.step)

    def importance(self, state: State) -> dict[str, float]:
        """Return each layer's share in the mean ``|momentum|`` of its kept weights; they add up to 1."""
        means = {}
        for site in state.sites:
            kept = site.tensors[MOMENTUM][self.active(site)]
            means[site.name] = float(kept.double().abs().mean()) if kept.numel() else 0.0
        total = math.fsum(means.values())
        return {name: mean / total if total else 1.0 / len(means) for name, mean in means.items()}

    def rewire(self, state: State) -> None:
        """Drop, and grow as much."""
        state.numbers["importance"] = self.importance(state)
        state.note("drop_fraction", self.fraction(state))
        state.note("importance", state.numbers["importance"])
        super().rewire(state)

    def drop(self, state: State, site: Site) -> Tensor:
        """Return the smallest."""
        active = units_in(site.pattern, self.active(site))
        zeros = units_in(site.pattern, ~site.keep)
        sparsity, fraction = zeros / max(1, zeros + active), self.fraction(state)
        if sparsity < NEARLY_DENSE and state.numbers["importance"][site.name] > 1.0 / len(state.sites):
            fraction = min(sparsity, fraction)
        return self.smallest(site, math.ceil(fraction * active - 1e-7))

    def shares(self, state: State, dropped: Counts, survivors: Mapping[str, Tensor]) -> Counts:
        """Return shares in proportion to the momentum of what was kept before."""
        total = sum(dropped.values())
        rooms = {s.name: units_in(s.pattern, ~survivors[s.name]) for s in state.sites}
        limits = {name: math.floor(FULL * room) for name, room in rooms.items()}
        return in_proportion(state.numbers["importance"], limits if sum(limits.values()) >= total else rooms, total)

    def growth_scores(self, state: State, site: Site) -> Tensor:
        """Return the magnitude of the momentum."""
        return site.tensors[MOMENTUM].abs()
