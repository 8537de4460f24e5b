"""Who starts the processes of a run, ends those that hang, and goes on after those that died."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparsekit.bench.gpu.log import Log
from sparsekit.bench.gpu.worker import Unit

LOOK_S, SAVE_S = 0.5, 5.0
STARTING_S = 90.0
"""Seconds that importing torch and starting the GPU may take, beside a unit's own."""

TOO_LATE = "was not done when the time was over"

LAST_S = 20.0
"""Seconds after the end of the run that its last unit may still take."""


@dataclass
class Watch:
    """The run as a whole.

    Args:
        units: what is done.
        log: what the processes write, and this reads.
        start: starts a process at the unit of a number.
        until: ``time.time()`` at which the run ends.
        look: called every few seconds, such as to save what there is.
        tell: is told in a few words what happens.
    """

    units: Sequence[Unit]
    log: Log
    start: Callable[[int], subprocess.Popen[bytes]]
    until: float
    look: Callable[[], None]
    tell: Callable[[str], None]

    def run(self) -> None:
        """Start processes until every unit is done, or skipped, or the time is over."""
        while (unit := self._next()) < len(self.units) and time.time() < self.until:
            how = self._wait(self.start(unit))
            self.look()
            if self._next() < len(self.units):
                self._blame(how)

    def _next(self) -> int:
        """The number of the first unit that is not done, skipped or given up."""
        ended = {record["unit"] for record in self.log.records("done", "skipped")}
        return next((number for number in range(len(self.units)) if number not in ended), len(self.units))

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a process; return how it ended, in words."""
        seen, since, patience = -1, time.time(), STARTING_S
        looked = since
        while process.poll() is None:
            time.sleep(LOOK_S)
            size = self.log.path.stat().st_size if self.log.path.exists() else 0
            if size != seen:
                if seen >= 0:  # it has begun
                    patience = self.units[min(self._next(), len(self.units) - 1)].patience
                seen, since = size, time.time()
            if time.time() - looked > SAVE_S:
                self.look()
                looked = time.time()
            if time.time() - since > patience or time.time() > self.until + LAST_S:
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # a driver may hold on to it
                    process.wait(STARTING_S)
                return "hung" if time.time() - since > patience else TOO_LATE
        return f"ended the process with status {process.returncode}"

    def _blame(self, how: str) -> None:
        """Leave out what was under way when a process ended too early."""
        starts = self.log.records("start")
        number = self._next()
        last = starts[-1] if starts and starts[-1]["unit"] == number else {"part": self.units[number].name}
        part = last["part"]
        self.tell(f"{part} {how}")
        if how == TOO_LATE or part in self.log.failed() or part in (self.units[number].name, "timing", "ceilings"):
            self.log.add("skipped", unit=number, name=self.units[number].name, reason=f"{part} {how}")
        else:
            self.log.add("failed", way=part, reason=f"{how} in {self.units[number].name}")
