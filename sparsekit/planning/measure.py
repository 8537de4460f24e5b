"""How long each way to compute one layer takes, as a model would meet it: with its weight out of the caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.kernels import Multiply
from sparsekit.kernels.candidates import candidates
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.planning.cache import Times

FIRST_LOOK_S = 0.0
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
        """What a measurement of this job is cached under; sparsity counts in steps of 1/40."""
        rows, columns = self.weight.shape
        sparsity = round(self.mask.sparsity * 40) / 40
        return (
            f"linear {rows}x{columns} {str(self.weight.dtype).removeprefix('torch.')} {self.mask.pattern} "
            f"sparsity={sparsity:.3f} batch={self.batch} bias={self.bias is not None} "
            f"device={self.weight.device.type} threads={torch.get_num_threads()} cold={self.others > 0}"
        )


def measure(job: Job) -> Times:
    """Time every kernel of every format that accepts the mask, dense included; refusing kernels are left out.

    Returns:
        Seconds per call by kernel name.
    """
    x = torch.randn(job.batch, job.weight.shape[1], dtype=job.weight.dtype, device=job.weight.device)
    before = _eviction(job.others, x)
    with torch.no_grad():
        ways = candidates(job.weight, job.mask, job.batch)
        calls = {kernel.name: _call(kernel.bind(packed), x, job.bias) for kernel, packed in ways}
        times = fastest(calls, FIRST_LOOK_S, before)
        limit = CONTENDERS * min(times.values())
        contenders = {name: call for name, call in calls.items() if times[name] <= limit or name == EAGER}
        times.update(fastest(contenders, BUDGET_S, before))
    return times


def _call(multiply: Multiply, x: Tensor, bias: Tensor | None) -> Callable[[], object]:
    return lambda: multiply(x, bias)


def _eviction(size: int, x: Tensor) -> Callable[[], object] | None:
    """Return what reads ``size`` bytes, and then the activations, which the layer before has just written."""
    if size == 0:
        return None
    buffer = torch.ones(size // 4, dtype=torch.float32)
    return lambda: (buffer.sum(), x.sum())
