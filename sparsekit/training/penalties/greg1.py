"""Growing regularization: what goes is known from the start, and is let down gently."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.training.penalties.growing import GROWN, GrowingPenalty, Pace, beyond, interval, rounded_share
from sparsekit.training.site import Site
from sparsekit.training.state import State


@dataclass(frozen=True)
class GReg1(GrowingPenalty):
    """Picks the units with the lowest mean ``|w|`` at the start, and pushes them down with a penalty that grows.

    A picked unit gets ``factor * w`` added to its gradient, kept ones nothing. Every ``every`` steps, from step 0 on,
    the factor grows by ``delta``, until it exceeds ``tau`` or the kept units of its layer are ``limit`` times larger.
    When all layers are finished and have trained on for ``settle`` steps with factors at rest, the picked units are
    removed, and the rest of the run fine-tunes what is left. Where a run ends before that, it removes them then.

    The paper's numbers need about 100000 steps; without arguments, a run of any length grows for 60 % of its steps,
    settles for 10 %, and fine-tunes for 30 %, much as the paper shares them out. As published:
    ``GReg1(delta=1e-4, every=10, settle=10_000)`` for CIFAR, ``every=5, settle=40_000`` for ImageNet, both at a
    learning rate of 1e-3. All in all, the penalty shrinks a unit to about ``exp(-rate * sum of factors)`` of what it
    was: raise ``tau`` where few steps at a low rate leave more than you want to lose.

    In residual networks the paper leaves out the last convolution of each block (for filters; the first, for input
    channels) and the shortcuts: leave them out with ``layers``. The paper's code lets a layer's ratio count only when
    all layers have reached ``limit``; here each layer is finished by itself.

    Args:
        delta, every, tau, settle, growing, limit: as in :class:`GrowingPenalty`.

    Source: Wang, Qin, Zhang, Fu 2021, "Neural Pruning via Growing Regularization", section 3.2, with the stop rules and
    numbers of the authors' code; the shares of a run are this library's.
    """

    def pace(self, state: State) -> Pace:
        """Return when factors grow in a run of this length, and by how much."""
        span = rounded_share(self.growing, state.steps)
        every = interval(self.every, span)
        growths = max(1, span // every) if self.delta is None else beyond(self.tau, self.delta)
        delta = self.tau / (growths - 0.5) if self.delta is None else self.delta
        return Pace(every, growths, delta, self.settle or rounded_share(0.1, state.steps))

    def prepare(self, state: State) -> None:
        """Pick at the start."""
        self.pick(state)

    def rise(self, state: State, pace: Pace) -> None:
        """Do nothing: units are picked already."""

    def levels(self, state: State, site: Site) -> tuple[float, float]:
        """Return 0 for kept units, and for picked ones the increments so far."""
        return 0.0, state.numbers.get(GROWN + site.name, 0) * self.pace(state).delta
