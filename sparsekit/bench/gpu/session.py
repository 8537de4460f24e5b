"""What every part of a run on a GPU is given, and how it goes on after something failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from sparsekit.bench.gpu.log import Log
from sparsekit.kernels.clock import clock_of
from sparsekit.kernels.timing import Call, Clock

ResultT = TypeVar("ResultT")

COMPILERS = 12
"""Threads that compile at once."""


class NotingClock(Clock):
    """A clock that notes what another times as it is called, and not as a graph.

    Args:
        clock: the other one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.evicted = clock.evicted
        self.as_called: list[Call] = []

    def ready(self, call: Call) -> Call:
        """See :class:`~sparsekit.kernels.timing.Clock`."""
        ready = self._clock.ready(call)
        if ready is call:
            self.as_called.append(call)
        return ready

    def seconds(self, call: Call, repeats: int) -> float:
        """See :class:`~sparsekit.kernels.timing.Clock`."""
        return self._clock.seconds(call, repeats)

    def eviction(self, size: int, x: torch.Tensor) -> Call | None:
        """See :class:`~sparsekit.kernels.timing.Clock`."""
        return self._clock.eviction(size, x)


@dataclass
class Session:
    """One process of a run.

    Args:
        device: where everything is computed.
        log: what was found.
        tunes_until: ``time.time()`` after which nothing is tuned any more.
        seconds: to spend on timing the ways of one case, by sparsity.
        tell: is told in a few words what comes next.
    """

    device: torch.device
    log: Log
    tunes_until: float = 0.0
    seconds: float = 0.4
    tell: Callable[[str], None] = lambda _: None
    unit: int = field(default=0, init=False)

    @property
    def clock(self) -> Clock:
        """The clock of the device."""
        return clock_of(self.device)

    @property
    def tunes(self) -> bool:
        """Whether there is time left to tune."""
        return time.time() < self.tunes_until

    def random(self, *shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
        """Return normal numbers on the device; torch's own random numbers stay what they are."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device).to(dtype)

    def start(self, part: str) -> None:
        """Say that ``part`` comes next: where the process ends, it is what ended it."""
        self.log.add("start", unit=self.unit, part=part)

    def attempt(self, part: str, work: Callable[[], ResultT], otherwise: Callable[[str], None]) -> ResultT | None:
        """Return what ``work`` returns; where it raises, tell ``otherwise`` why and return None.

        Raises:
            RuntimeError: the GPU does not go on, and this process with it.
        """
        self.start(part)
        try:
            result = work()
            self.finish()
            return result
        except Exception as error:  # whatever a way to compute something says: the others go on
            self.finish()
            otherwise(reason_of(error))
            return None

    def finish(self) -> None:
        """Wait until the device has done what it was told.

        Raises:
            RuntimeError: it did not, and does not go on.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def reason_of(error: Exception) -> str:
    """Say in one line what went wrong."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]
