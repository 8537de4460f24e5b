"""Weights that are cut off and spliced back by two thresholds, while all of them train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import keep_highest
from sparsekit.training.gates.base import LATENT, GatedMethod
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction

LOW, HIGH = 0.9, 1.1
"""Of the threshold: what is at most the one is cut off, what is above the other is spliced back."""
ROUNDING = 1e-12
"""So that what lies at a threshold by its definition does so in float64."""
RUNNING = "running"
"""The mask that the model runs on; ``site.keep`` is the one that it would end with."""


@dataclass(frozen=True)
class DynamicNetworkSurgery(GatedMethod):
    """Runs on the weights above a threshold, and trains all: what was cut off by mistake grows, and is spliced back.

    A layer's threshold is ``t = max(0, mean + c * std)`` of its ``|w|`` when the run starts, and never changes. A
    weight of ``|w| <= 0.9 t`` is cut off, one of ``|w| > 1.1 t`` is spliced back, one between stays as it is. Masks
    change after a step ``i`` with probability ``(1 + gamma * i) ** -power``, each layer for itself, up to ``stop``.
    The gradient at the masked weights trains all weights, those that are cut off as well. Biases are not pruned.

    Documented variants: units of a pattern go by the mean of their ``|w|``, and the last unit of a layer is spared.
    With a sparsity, ``t`` lies where the first masks have it, and the masks of ``stop`` are chosen to have it exactly.
    A pattern that fixes its own sparsity exchanges a kept weight for another that is ``1.1 / 0.9`` times as large.

    Args:
        c: standard deviations above the mean, without a sparsity. The paper's models, trained before, take up to 4;
            all weights of a fresh layer of PyTorch, uniform as they are, lie below 1.74.
        gamma: how fast changes become rare, per step, at least 0; the paper has 1e-4 to 1e-3.
        power: exponent of the same, at least 0.
        stop: share of the run after which masks stay as they are, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Guo, Yao, Chen 2016, "Dynamic Network Surgery for Efficient DNNs", equations 3 and 4, and its code for the
    thresholds.
    """

    c: float = 1.0
    gamma: float = 1e-3
    power: float = 1.0
    stop: float = 0.75
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fraction(stop=self.stop)
        for name, value in (("gamma", self.gamma), ("power", self.power)):
            if not value >= 0:
                raise PruningError(f"{name}: expected at least 0, got {value!r}")

    def prepare(self, state: State) -> None:
        """Set the thresholds, and cut for the first time."""
        wanted = state.choose(state.magnitudes(), state.sparsity) if state.sparsity is not None else {}
        if not state.pattern.fixes_sparsity:
            thresholds = {site.name: self.threshold(site, wanted.get(site.name)) for site in state.sites}
            state.numbers["thresholds"] = thresholds
            state.note("threshold", thresholds)
        for site in state.sites:
            site.tensors[LATENT], site.tensors[RUNNING] = site.read(), site.keep.clone()
        self.cut(state, 0)
        self.show(state)

    def threshold(self, site: Site, wanted: Tensor | None) -> float:
        """Return ``t`` for the weight as it is; where masks are ``wanted``, the one that leads to them."""
        units = self.sizes(site, site.read())
        if not units.numel():
            return 0.0
        if wanted is None:
            return max(0.0, float(units.mean() + self.c * units.std(correction=0)))
        gone = units[site.pattern.pool(wanted.double()) == 0]
        return float(gone.max()) / LOW * (1 + ROUNDING) if gone.numel() else 0.0

    def sizes(self, site: Site, weight: Tensor) -> Tensor:
        """Return the mean ``|w|`` of each unit."""
        pool = site.pattern.pool
        return pool(weight.double().abs()) / pool(torch.ones_like(weight, dtype=torch.float64))

    def cut(self, state: State, step: int) -> None:
        """Change the masks of ``step`` finished steps, as chance and thresholds want it."""
        stop = round(self.stop * state.steps)
        if step > stop:
            return
        probability = (1 + self.gamma * step) ** -self.power
        for site in state.sites:
            if float(torch.rand((), generator=state.generator, dtype=torch.float64)) < probability:
                site.tensors[RUNNING] = self.spliced(state, site)
        state.note("probability", probability)
        if step == stop and state.sparsity is not None:
            for site, keep in zip(state.sites, state.choose(self.scores(state), state.sparsity).values()):
                site.tensors[RUNNING] = keep

    def spliced(self, state: State, site: Site) -> Tensor:
        """Return the mask of ``site`` after a change: a legal one."""
        weight, running, pattern = site.tensors[LATENT], site.tensors[RUNNING], site.pattern
        if pattern.fixes_sparsity:
            return pattern.select(weight.double().abs() * (LOW + (HIGH - LOW) * running.double()), None)
        units, threshold = self.sizes(site, weight), state.numbers["thresholds"][site.name]
        kept = pattern.pool(running.double()) > 0
        kept = (kept & (units > LOW * threshold)) | (units > HIGH * threshold)
        if kept.numel() and not bool(kept.any()):
            kept = keep_highest(units.reshape(1, -1), 1).reshape(units.shape)
        return pattern.spread(kept, site.shape)

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the kept weights; the gradient passes to all."""
        return weight + (weight * site.tensors[RUNNING] - weight).detach()

    def take(self, state: State) -> None:
        """Remember the new weights, and change the masks."""
        super().take(state)
        self.cut(state, state.step + 1)

    def settled(self, state: State, site: Site) -> Tensor:
        """Return all weights: the final mask says which stay."""
        return site.tensors[LATENT].clone()

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the masks of ``stop``, or what they would be if it were now."""
        if state.pattern.fixes_sparsity or state.step >= round(self.stop * state.steps):
            return {site.name: site.tensors[RUNNING] for site in state.sites}
        return super().final(state)

    def decide(self, state: State, site: Site) -> Tensor:
        """Return the mask as it is."""
        return site.tensors[RUNNING]
