"""What growing penalties share: factors that grow until the picked units are next to nothing, and then the cut."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.base import check_every
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.norms import unit_size
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive

PICKED, SETTLED, UPDATED = "picked", "settled", "updated"
GROWN, FINISHED, RATIO = "grown.", "finished.", "ratio."
MEMORY = 0.9
LONGEST = 10
FEWEST = 100


@dataclass(frozen=True)
class Pace:
    """When factors grow, and by how much, in whole numbers: a factor is a count times an increment.

    Args:
        every: steps between two growths; the first is at step 0.
        growths: increments of picked units until their layer is finished.
        delta: one of them.
        settle: steps with all factors at rest before picked units are removed.
        rises: increments of all units before any is picked.
        delta_pick: one of them.
    """

    every: int
    growths: int
    delta: float
    settle: int
    rises: int = 0
    delta_pick: float = 0.0


@dataclass(frozen=True)
class GrowingPenalty(PenaltyMethod):
    """Adds ``factor / 2 * |w|^2`` for each unit, so ``factor * w`` to its gradient, with factors that grow.

    Counters are integers: summed up in floating point, increments would reach a threshold one growth late.

    Args:
        delta: by how much the factor of picked units grows; None = so that it exceeds ``tau`` when the share
            ``growing`` of the run is over.
        every: steps between two growths, the first at step 0; None = 10 in long runs, and fewer where the share
            ``growing`` would hold less than 1000 steps: so many that it holds about a hundred growths.
        tau: a layer whose factor exceeds it is finished.
        settle: steps with factors at rest, from when the last layer is finished to the removal; None = a tenth of the
            run.
        growing: share of the run that ``delta`` and ``every`` are derived from, in (0, 1].
        limit: a layer whose kept units are so many times larger than its picked ones, as a moving average with memory
            0.9 of the ratio of their mean ``|w|``, is finished as well. Read only where units are more than one weight.

    Raises:
        PruningError: an argument is out of its range.
    """

    delta: float | None = None
    every: int | None = None
    tau: float = 1.0
    settle: int | None = None
    growing: float = 0.6
    limit: float = 1000.0

    def __post_init__(self) -> None:
        check_positive(tau=self.tau, growing=self.growing, limit=self.limit)
        check_fraction(growing=self.growing)
        if self.delta is not None:
            check_positive(delta=self.delta)
        for name, value in (("every", self.every), ("settle", self.settle)):
            if value is not None:
                check_every(**{name: value})

    @abstractmethod
    def pace(self, state: State) -> Pace:
        """Return when factors grow in a run of this length, and by how much."""

    @abstractmethod
    def rise(self, state: State, pace: Pace) -> None:
        """Make one more increment before units are picked, and pick where it is time to."""

    @abstractmethod
    def levels(self, state: State, site: Site) -> tuple[float, float]:
        """Return the factors of kept and of picked units, as they are now."""

    def factors(self, state: State, site: Site) -> Tensor:
        """Return the factor of each weight's unit, of the weight's shape, in at least float32."""
        kept, picked = self.levels(state, site)
        dtype = torch.promote_types(site.weight.dtype, torch.float32)
        low, high = (torch.tensor(level, dtype=dtype, device=site.keep.device) for level in (kept, picked))
        return torch.where(site.keep, low, high)

    def penalty(self, state: State) -> Tensor | None:
        """Grow the factors where it is time to, once per step, and return the sum of :meth:`cost`."""
        pace = self.pace(state)
        numbers = state.numbers
        due = state.step % pace.every == 0 and numbers.get(UPDATED) != state.step
        if due and SETTLED not in numbers and not held(state):
            numbers[UPDATED] = state.step
            with torch.no_grad():
                self._grow(state, pace)
        return super().penalty(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor | None:
        """Return half the squares, each times its factor; None once the picked units are gone."""
        if site.held or not any(self.levels(state, site)):
            return None
        factors = self.factors(state, site)
        return 0.5 * (factors * weight.to(factors.dtype).square()).sum()

    def after_step(self, state: State) -> None:
        """Remove the picked units once every layer is finished and has settled; what follows is fine-tuning."""
        settled = state.numbers.get(SETTLED)
        if settled is not None and not held(state) and state.step + 1 >= settled + self.pace(state).settle:
            self.harden(state)

    def harden(self, state: State) -> None:
        """Remove what is picked; what goes is picked now where it is not yet."""
        if not held(state):
            super().harden(state)
            state.note("factor", {site.name: 0.0 for site in state.sites})

    def final(self, state: State) -> dict[str, Tensor]:
        """Return all but the picked units."""
        if PICKED not in state.numbers:
            self.pick(state)
        return {site.name: site.keep for site in state.sites}

    def pick(self, state: State) -> None:
        """Pick the units that go, by the weights as they are now."""
        state.numbers[PICKED] = state.step
        for site, keep in zip(state.sites, state.choose(self.scores(state), state.sparsity).values()):
            site.propose(keep)
            if bool(keep.all()):
                state.numbers[FINISHED + site.name] = state.step
        state.note("picked", {site.name: site.sparsity for site in state.sites})

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return ``|w|`` over the weights of a unit: a unit's score is its mean ``|w|``, so that layers compare."""
        return {site.name: wide(site.read()).abs() / unit_size(site.pattern, site.shape) for site in state.sites}

    def _grow(self, state: State, pace: Pace) -> None:
        """Grow all factors by one increment, and see which layers are finished."""
        numbers = state.numbers
        if PICKED not in numbers:
            self.rise(state, pace)
        else:
            for site in state.sites:
                if FINISHED + site.name not in numbers:
                    grown = numbers[GROWN + site.name] = numbers.get(GROWN + site.name, 0) + 1
                    apart = self._ratio(state, site) >= self.limit
                    if grown >= pace.growths or apart:
                        numbers[FINISHED + site.name] = state.step
        if all(FINISHED + site.name in numbers for site in state.sites):
            numbers[SETTLED] = state.step
        state.note("factor", {site.name: max(self.levels(state, site)) for site in state.sites})
        ratios = {s.name: numbers[RATIO + s.name] for s in state.sites if RATIO + s.name in numbers}
        if ratios:
            state.note("ratio", ratios)

    def _ratio(self, state: State, site: Site) -> float:
        """How many times larger kept units are than picked ones, smoothed; 0 where units are single weights."""
        if unit_size(site.pattern, site.shape) == 1:
            return 0.0
        units = site.pattern.pool(wide(site.read()).abs())
        keep = site.pattern.pool(site.keep.double()) > 0
        if bool(keep.all()) or not bool(keep.any()):
            return 0.0
        now = float(units[keep].mean() / units[~keep].mean().clamp(min=torch.finfo(torch.float32).tiny))
        before = state.numbers.get(RATIO + site.name, now)
        state.numbers[RATIO + site.name] = MEMORY * before + (1.0 - MEMORY) * now
        return float(state.numbers[RATIO + site.name])


def interval(every: int | None, span: int) -> int:
    """Return ``every``; where it is None, up to 10 steps, so few that ``span`` steps hold a hundred growths."""
    return min(LONGEST, max(1, span // FEWEST)) if every is None else every


def beyond(distance: float, delta: float) -> int:
    """Return how many increments ``delta`` it takes to exceed ``distance``, by the numbers that were meant."""
    return max(1, math.floor(distance / delta + 1e-9) + 1)


def rounded_share(share: float, steps: int) -> int:
    """Return ``share`` of ``steps``, at least 1."""
    return max(1, round(share * steps))


def held(state: State) -> bool:
    """Whether picked units are gone."""
    return all(site.held for site in state.sites)


def check_recovery(recover: float) -> None:
    """Raise :class:`PruningError` unless ``recover`` is a finite number."""
    if not math.isfinite(recover):
        raise PruningError(f"recover: expected a finite number, got {recover!r}")
