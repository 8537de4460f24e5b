"""Which of several ways to compute the same thing is the fastest."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from time import perf_counter

import torch
from torch import Tensor

_SAMPLE_SECONDS = 50e-6
_ROUNDS = range(3, 200)

Call = Callable[[], object]


class Clock(ABC):
    """How calls are timed on one device; :func:`sparsekit.kernels.clock.clock_of` gives that of a device."""

    evicted = 0
    """Bytes to push out between two calls where nothing is known of the model around a layer."""

    @abstractmethod
    def ready(self, call: Call) -> Call:
        """Warm ``call`` up and return what is timed in its place, which does the same work."""

    @abstractmethod
    def seconds(self, call: Call, repeats: int) -> float:
        """Call ``repeats`` times and return the seconds of one."""

    @abstractmethod
    def eviction(self, size: int, x: Tensor) -> Call | None:
        """Return what pushes as much as ``size`` bytes out of the caches and then reads ``x``; None where that is 0.

        ``x`` are the activations, which the layer before has just written.
        """


class HostClock(Clock):
    """The clock of the CPU."""

    def ready(self, call: Call) -> Call:
        """See :class:`Clock`: a call is timed as it is."""
        call()
        return call

    def seconds(self, call: Call, repeats: int) -> float:
        """See :class:`Clock`."""
        start = perf_counter()
        for _ in range(repeats):
            call()
        return (perf_counter() - start) / repeats

    def eviction(self, size: int, x: Tensor) -> Call | None:
        """See :class:`Clock`: ``size`` bytes are read."""
        if size == 0:
            return None
        buffer = torch.ones(size // 4, dtype=torch.float32, device="cpu")
        return lambda: (buffer.sum(), x.sum())


HOST = HostClock()


def fastest(
    candidates: Mapping[str, Call],
    budget_s: float,
    before: Call | Mapping[str, Call] | None = None,
    clock: Clock = HOST,
) -> dict[str, float]:
    """Time every candidate in interleaved rounds, so that a machine that slows down slows all of them alike.

    Each candidate is warmed up and then called once unmeasured first. A sample repeats a short call until it lasts
    50 us. Rounds then go on until ``budget_s`` is spent, at least 3 of them.

    Args:
        candidates: what to call, by name.
        budget_s: seconds to spend on all candidates together.
        before: what to call, unmeasured, before every single call, such as what empties the caches, for all
            candidates or for those that it names; a sample is then one call.
        clock: that of the device that the candidates run on.

    Returns:
        The median seconds per call by name, the fastest first.
    """
    if not isinstance(before, Mapping):
        before = {} if before is None else dict.fromkeys(candidates, before)
    ready: dict[str, Call] = {}
    repeats: dict[str, int] = {}
    for name, call in candidates.items():
        ready[name] = clock.ready(call)
        once = clock.seconds(ready[name], 1)
        repeats[name] = 1 if name in before else max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = perf_counter() + budget_s  # not before: a kernel's first call may compile it
    for number in range(_ROUNDS.stop):
        if number >= _ROUNDS.start and perf_counter() >= end:
            break
        for name, call in ready.items():
            if name in before:
                before[name]()
            samples[name].append(clock.seconds(call, repeats[name]))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    return dict(sorted(medians.items(), key=lambda item: item[1]))
