"""How long each way to compute one layer takes, as a model would meet it: with its weight out of the caches."""

from __future__ import annotations

import torch

from sparsekit.kernels.clock import clock_of
from sparsekit.kernels.timing import fastest
from sparsekit.planning.cache import Times
from sparsekit.planning.jobs import AS_IS, EAGER, Job

FIRST_LOOK_S = 0.0  # the fewest rounds
BUDGET_S = 0.3
CONTENDERS = 1.5
"""Only candidates within this factor of the fastest at first look are measured at length."""


def measure(job: Job) -> Times:
    """Time every kernel of every format that accepts the mask, dense included.

    Returns:
        Seconds per call by kernel name.
    """
    x = job.example()
    clock = clock_of(x.device)
    before = clock.eviction(job.others, x)
    with torch.no_grad():
        calls = job.calls(x)
        times = fastest(calls, FIRST_LOOK_S, before, clock)
        limit = CONTENDERS * min(times.values())
        contenders = {name: call for name, call in calls.items() if times[name] <= limit or name in (EAGER, AS_IS)}
        times.update(fastest(contenders, BUDGET_S, before, clock))
    return times
