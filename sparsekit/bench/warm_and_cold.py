"""Ways to compute one product, timed twice: called again and again, and with the weight in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from sparsekit.bench.memory import cache_bytes, warming
from sparsekit.kernels.timing import HOST, fastest

Memory = Literal["warm", "cold"]
WARM_SHARE = 0.4
"""Share of the time for the warm rounds; a cold one takes longer, since it reads twice the largest cache per call."""
SETTLE_S = 0.006
"""How long the threads of torch wait for more work before they leave the cores to those of others."""


@dataclass(frozen=True)
class Way:
    """One way to compute one product of a problem.

    Args:
        name, sparsity: what its row says.
        call: computes it.
        first_rows: does the same by the first rows of the weight, a copy of them; None where it cannot.
        nbytes: of the packed weight; 0 where nobody knows.
        version: of the library where it is a peer's.
        own_threads, rounds: as for a :class:`~sparsekit.bench.peers.Peer`.
    """

    name: str
    sparsity: float
    call: Callable[[], Tensor]
    first_rows: Callable[[], Tensor] | None = None
    nbytes: int = 0
    version: str = ""
    own_threads: bool = False
    rounds: bool = False

    @property
    def key(self) -> str:
        """What tells it from the others of the problem."""
        return f"{self.name} {self.sparsity}"

    def ready(self) -> None:
        """Bring code, interpreter and threads to where a model has them; the weight stays where it is."""
        if self.first_rows is not None:
            self.first_rows()


def time_ways(ways: Sequence[Way], x: Tensor, seconds: float) -> dict[Memory, dict[str, float]]:
    """Time all ways in the same rounds, first warm and then cold.

    Warm is each single call after a few of the same: what it finds in the caches does not depend on who else is in the
    race. Cold is each single call after as much memory was read as pushes everything out of the caches, then the
    activations, and then the same way was called on the first rows of the weight: as in a model, whose weights come
    from memory while the layer before has just written the activations and run the same code. Where a way has nothing
    for the first rows, its code comes from memory too.

    Threads that have no work go on looking for some for a while, and would take the cores from those of another
    library. So wherever calls of two libraries with threads of their own meet, the second waits until those have gone
    to sleep, and is called on the first rows to wake its own.

    Args:
        ways: at least one.
        x: the activations.
        seconds: what it may take.

    Returns:
        Median seconds by key of the way, warm and cold.
    """
    calls = {way.key: way.call for way in ways}
    evict = HOST.eviction(2 * cache_bytes(), x)
    assert evict is not None

    def evicted(way: Way) -> None:
        evict()
        if way.own_threads:
            time.sleep(SETTLE_S)
        way.ready()

    def called(way: Way, last: Way) -> None:
        if last.own_threads or way.own_threads:
            time.sleep(SETTLE_S)
        warming(way.call)

    neighbours = zip((ways[-1], *ways), ways)
    return {
        "warm": fastest(calls, WARM_SHARE * seconds, {way.key: partial(called, way, last) for last, way in neighbours}),
        "cold": fastest(calls, (1 - WARM_SHARE) * seconds, {way.key: partial(evicted, way) for way in ways}),
    }
