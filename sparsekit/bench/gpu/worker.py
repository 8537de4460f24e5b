"""One process of a run: unit after unit, until they or the time are over."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparsekit.bench.gpu.cases import GpuCase, GpuLinear
from sparsekit.bench.gpu.ceilings import BYTES, SIDE, measure_ceilings
from sparsekit.bench.gpu.checks import check_kernel, checked_kernels
from sparsekit.bench.gpu.contests import run_case
from sparsekit.bench.gpu.session import Session, reason_of

USUAL_S, TUNING_PEER_S, CHECKING_S = 100.0, 240.0, 200.0
"""Seconds without a word after which a unit is taken to hang: a kernel may never end, or compile for long."""


@dataclass(frozen=True)
class Unit:
    """One step of a run.

    Args:
        name: what is done.
        work: does it.
        patience: seconds without a word from it, at most.
    """

    name: str
    work: Callable[[Session], None]
    patience: float = USUAL_S


def units_of(cases: Sequence[GpuCase], side: int = SIDE, bytes: int = BYTES) -> list[Unit]:
    """Return the steps: what the machine reaches, whether every kernel is right, then every case.

    Args:
        cases: what is measured.
        side, bytes: see :func:`~sparsekit.bench.gpu.ceilings.measure_ceilings`.
    """
    found = [Unit("ceilings", partial(measure_ceilings, side=side, bytes=bytes))]
    found += [Unit(f"check {k.name}", partial(check_kernel, k), CHECKING_S) for k in checked_kernels()]
    for case in cases:
        tunes = isinstance(case, GpuLinear) and case.tunes_peer
        found.append(Unit(str(case), partial(run_case, case), TUNING_PEER_S if tunes else USUAL_S))
    return found


def work(units: Sequence[Unit], first: int, until: float, session: Session) -> None:
    """Do ``units`` from the one numbered ``first`` on.

    A unit that raises is skipped, where the GPU goes on; what ends the process is seen by who started it.

    Args:
        units: all of the run.
        first: the number of the first that is not done.
        until: ``time.time()`` after which no unit is started.
        session: where.
    """
    for number in range(first, len(units)):
        unit, session.unit = units[number], number
        if time.time() > until:
            session.log.add("skipped", unit=number, name=unit.name, reason="the time is over")
            continue
        began = time.time()
        session.tell(f"{number + 1}/{len(units)} {unit.name}")
        session.start(unit.name)
        try:
            unit.work(session)
        except Exception as error:  # one unit less
            session.finish()
            session.log.add("skipped", unit=number, name=unit.name, reason=reason_of(error))
            session.tell(f"SKIPPED: {unit.name}: {reason_of(error)}")
        session.log.add("done", unit=number, name=unit.name, seconds=time.time() - began)
        gc.collect()
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
