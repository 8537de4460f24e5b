"""Growing regularization: a penalty on all units shows which of them the loss does not hold on to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsekit.errors import PruningError
from sparsekit.training.penalties.growing import (
    FINISHED,
    GROWN,
    PICKED,
    GrowingPenalty,
    Pace,
    beyond,
    check_recovery,
    interval,
    rounded_share,
)
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive

RISEN = "risen"


@dataclass(frozen=True)
class GReg2(GrowingPenalty):
    """Penalises all units more and more, picks those that have become smallest, and goes on as :class:`GReg1`.

    Under the same penalty a weight shrinks to ``h w / (h + factor)``, where ``h`` is the curvature of the loss along
    it: what matters little shrinks most, so the lowest mean ``|w|`` tells more than it did at the start. All factors
    rise by ``delta_pick`` every ``every`` steps, from step 0 on; at the first that reach ``tau_pick`` the units that go
    are picked. Their factors then grow by ``delta``, while kept units have the constant ``recover``.

    The paper's numbers need about 110000 steps; without arguments, a run of any length grows for 60 % of its steps, the
    first tenth of which picks, settles for 10 %, and fine-tunes for 30 %. As published, for CIFAR:
    ``GReg2(delta=1e-4, delta_pick=1e-5, every=10, settle=10_000)``; for ImageNet ``every=5, settle=40_000``; both at a
    learning rate of 1e-3. Weights have to be given time to answer: with few steps or a low rate they have hardly moved
    when ``tau_pick`` is reached, and the choice is that by magnitude; raise ``tau_pick`` and ``picking`` then.

    Which layers of residual networks to leave out, and what ends the growth: as in :class:`GReg1`.

    Args:
        delta, every, tau, settle, growing, limit: as in :class:`GrowingPenalty`.
        delta_pick: by how much all factors rise; None = so that they reach ``tau_pick`` when ``picking`` is over.
        tau_pick: factor at which units are picked, below ``tau``.
        picking: share of the growth that ``delta_pick`` is derived from, in (0, 1).
        recover: factor of kept units from then on. The default is that of the authors' code, and doubtful: being
            negative, it lets kept weights grow, which a remark in that code argues against. Positive values decay
            them, 0 leaves them alone.

    Raises:
        PruningError: an argument is out of its range.

    Source: Wang, Qin, Zhang, Fu 2021, "Neural Pruning via Growing Regularization", sections 3.2 and 3.3, with the stop
    rules and numbers of the authors' code; the shares of a run are this library's.
    """

    delta_pick: float | None = None
    tau_pick: float = 0.01
    picking: float = 0.1
    recover: float = -1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(tau_pick=self.tau_pick, picking=self.picking)
        check_fraction(picking=self.picking)
        check_recovery(self.recover)
        if self.delta_pick is not None:
            check_positive(delta_pick=self.delta_pick)
        if not self.tau_pick < self.tau:
            raise PruningError(f"tau_pick: expected a factor below tau={self.tau}, got {self.tau_pick!r}")

    def pace(self, state: State) -> Pace:
        """Return when factors grow in a run of this length, and by how much."""
        span = rounded_share(self.growing, state.steps)
        every = interval(self.every, span)
        if self.delta_pick is None:
            rises = rounded_share(self.picking, span // every)
            delta_pick = self.tau_pick / rises
        else:
            rises, delta_pick = max(1, math.ceil(self.tau_pick / self.delta_pick - 1e-9)), self.delta_pick
        way = max(0.0, self.tau - rises * delta_pick)
        growths = max(1, span // every - rises) if self.delta is None else beyond(way, self.delta)
        delta = way / (growths - 0.5) if self.delta is None else self.delta
        return Pace(every, growths, delta, self.settle or rounded_share(0.1, state.steps), rises, delta_pick)

    def rise(self, state: State, pace: Pace) -> None:
        """Raise all factors, and pick where they have reached ``tau_pick``."""
        risen = state.numbers[RISEN] = state.numbers.get(RISEN, 0) + 1
        if risen >= pace.rises:
            self.pick(state)

    def levels(self, state: State, site: Site) -> tuple[float, float]:
        """Return the same for all before units are picked; then ``recover``, and the increments so far.

        A layer of which nothing goes is finished then, and left alone.
        """
        pace, numbers = self.pace(state), state.numbers
        risen = numbers.get(RISEN, 0) * pace.delta_pick
        if PICKED not in numbers:
            return risen, risen
        if FINISHED + site.name in numbers and GROWN + site.name not in numbers:
            return 0.0, 0.0
        return self.recover, risen + numbers.get(GROWN + site.name, 0) * pace.delta
