"""How long each way to compute one layer takes, as a model would meet it: with its weight out of the caches."""

from __future__ import annotations

import warnings

import torch

from sparsekit.errors import SparsekitWarning
from sparsekit.kernels.clock import clock_of
from sparsekit.kernels.timing import fastest
from sparsekit.planning.cache import Times
from sparsekit.planning.jobs import AS_IS, EAGER, Call, Job

FIRST_LOOK_S = 0.0
"""The fewest rounds."""
BUDGET_S = 0.3
CONTENDERS = 1.5
"""Only candidates within this factor of the fastest at first look are measured at length."""


def look(job: Job) -> Times:
    """Time every kernel as :func:`measure` does, in the fewest rounds: good to say what might pay, not to choose."""
    x = job.example()
    clock = clock_of(x.device)
    with torch.no_grad():
        return fastest(_that_run(job.calls(x)), FIRST_LOOK_S, clock.eviction(job.others, x), clock)


def measure(job: Job) -> Times:
    """Time every kernel of every format that accepts the mask, dense included.

    A kernel that fails is left out with a warning: no plan ends because one of many ways to run a layer does not run
    on this machine. What torch itself does not run is an error.

    Returns:
        Seconds per call by kernel name.
    """
    x = job.example()
    clock = clock_of(x.device)
    before = clock.eviction(job.others, x)
    with torch.no_grad():
        calls = _that_run(job.calls(x))
        times = fastest(calls, FIRST_LOOK_S, before, clock)
        limit = CONTENDERS * min(times.values())
        contenders = {name: call for name, call in calls.items() if times[name] <= limit or name in (EAGER, AS_IS)}
        times.update(fastest(contenders, BUDGET_S, before, clock))
    return times


def _that_run(calls: dict[str, Call]) -> dict[str, Call]:
    """Call each once, and return those that do not fail."""
    found: dict[str, Call] = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            if name in (EAGER, AS_IS):
                raise
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            warnings.warn(f"{name} is left out of the plan, it failed: {reason}", SparsekitWarning, stacklevel=2)
        else:
            found[name] = call
    return found
