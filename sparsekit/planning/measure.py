"""How long each way to compute one layer takes, as a model would meet it: with its weight out of the caches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsekit.kernels.candidates import candidates
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.planning.cache import Times

FIRST_LOOK_S = 0.0  # the fewest rounds
BUDGET_S = 0.3
CONTENDERS = 1.5
"""Only candidates within this factor of the fastest at first look are measured at length."""

EAGER = "dense_linear_reference"
"""The kernel that is ``F.linear``: what the model runs before it is compiled."""


@dataclass(frozen=True)
class Job:
    """One layer at one batch size.

    Args:
        weight: ``(out, in)``.
        mask: what stays.
        bias: ``(out,)`` or None.
        batch: tokens.
        others: bytes that the model reads between two calls of this layer, at most; they are read before each
            measured call.
    """

    weight: Tensor
    mask: Mask
    bias: Tensor | None
    batch: int
    others: int

    @property
    def key(self) -> str:
        """What a measurement of this job is cached under; densities within about 9 % share one, full ones their own."""
        rows, columns = self.weight.shape
        zeros = self.mask.sparsity
        density = min(round(8 * math.log2(max(1 - zeros, 1e-6))), -1) / 8 if zeros else 0
        return (
            f"linear {rows}x{columns} {str(self.weight.dtype).removeprefix('torch.')} {self.mask.pattern} "
            f"density=2^{density:g} batch={self.batch} bias={self.bias is not None} "
            f"device={self.weight.device.type} threads={torch.get_num_threads()} others=2^{self.others.bit_length()}"
        )


def measure(job: Job) -> Times:
    """Time every kernel of every format that accepts the mask, dense included; refusing kernels are left out.

    Returns:
        Seconds per call by kernel name.
    """
    # A generator of its own: the user's random numbers stay what they are.
    x = torch.randn(job.batch, job.weight.shape[1], generator=torch.Generator().manual_seed(0)).to(job.weight)
    before = _eviction(job.others, x)
    with torch.no_grad():
        ways = candidates(job.weight, job.mask, job.batch)
        calls = {kernel.name: partial(kernel.bind(packed), x, job.bias) for kernel, packed in ways}
        times = fastest(calls, FIRST_LOOK_S, before)
        limit = CONTENDERS * min(times.values())
        contenders = {name: call for name, call in calls.items() if times[name] <= limit or name == EAGER}
        times.update(fastest(contenders, BUDGET_S, before))
    return times


def _eviction(size: int, x: Tensor) -> Callable[[], object] | None:
    """Return what reads ``size`` bytes, and then the activations, which the layer before has just written."""
    if size == 0:
        return None
    buffer = torch.ones(size // 4, dtype=torch.float32)
    return lambda: (buffer.sum(), x.sum())
