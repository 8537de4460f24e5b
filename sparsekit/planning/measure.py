"""How long each way to compute one layer takes, as a model would meet it: with its weight out of the caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
    before = _eviction(job.others, x)
    with torch.no_grad():
        calls = job.calls(x)
        times = fastest(calls, FIRST_LOOK_S, before)
        limit = CONTENDERS * min(times.values())
        contenders = {name: call for name, call in calls.items() if times[name] <= limit or name in (EAGER, AS_IS)}
        times.update(fastest(contenders, BUDGET_S, before))
    return times


def _eviction(size: int, x: Tensor) -> Callable[[], object] | None:
    """Return what reads ``size`` bytes, and then the activations, which the layer before has just written."""
    if size == 0:
        return None
    buffer = torch.ones(size // 4, dtype=torch.float32)
    return lambda: (buffer.sum(), x.sum())
