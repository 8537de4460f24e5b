"""Which of several ways to compute the same thing is the fastest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from time import perf_counter

_SAMPLE_SECONDS = 50e-6
_ROUNDS = range(3, 200)


def fastest(
    candidates: Mapping[str, Callable[[], object]], budget_s: float, before: Callable[[], object] | None = None
) -> dict[str, float]:
    """Time every candidate in interleaved rounds, so that a machine that slows down slows all of them alike.

    Each candidate is called twice unmeasured first. A sample repeats a short call until it lasts 50 us. Rounds go on
    until ``budget_s`` is spent, at least 3 of them.

    Args:
        candidates: what to call, by name.
        budget_s: seconds to spend on all candidates together.
        before: what to call, unmeasured, before every single call, such as what empties the caches; a sample is then
            one call.

    Returns:
        The median seconds per call by name, the fastest first.
    """
    end = perf_counter() + budget_s
    repeats = {name: _repeats(call, alone=before is not None) for name, call in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(_ROUNDS.stop):
        if number >= _ROUNDS.start and perf_counter() >= end:
            break
        for name, call in candidates.items():
            if before is not None:
                before()
            samples[name].append(_seconds(call, repeats[name]))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def _repeats(call: Callable[[], object], alone: bool) -> int:
    call()
    once = _seconds(call, 1)
    return 1 if alone else max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-9)))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats
