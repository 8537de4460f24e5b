"""What this GPU reaches: products per second, and bytes per second."""

from __future__ import annotations

from functools import partial

import torch

from sparsekit.bench.gpu.session import Session
from sparsekit.kernels.timing import fastest

SIDE = 8192
BYTES = 1 << 30


def measure_ceilings(session: Session, side: int = SIDE, bytes: int = BYTES) -> None:
    """Log "flops", of a large product of random bf16 numbers, and "bandwidth", bytes read and written by a copy."""
    session.start("ceilings")
    a, b = (session.random(side, side, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    source = session.random(bytes // 4, dtype=torch.float32, seed=3)
    target = torch.empty_like(source)
    calls = {"flops": partial(torch.matmul, a, b), "bandwidth": partial(target.copy_, source)}
    done = {"flops": 2.0 * side**3, "bandwidth": 2.0 * source.nbytes}
    for name, seconds in fastest(calls, session.seconds, clock=session.clock).items():
        session.log.add("ceiling", name=name, value=done[name] / seconds)
