"""Calls that go to a bound kernel directly, without torch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ready:
    """What a call needs, valid while the values tensor, its version and the number of threads stay the same."""

    values: Tensor
    version: int
    threads: int
    dtype: torch.dtype
    device: torch.device
    bias_shape: torch.Size
    runs: dict[Hashable, Callable[..., Tensor]] = field(default_factory=dict)
    """The bound kernel by the size of the input."""

    def takes(self, bias: Tensor) -> bool:
        """Whether a kernel may read ``bias``, which may have been replaced since."""
        return bias.dtype is self.dtype and bias.shape == self.bias_shape and bias.device == self.device


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor that nothing traces: then a kernel may be called directly."""
    return (
        type(x) is Tensor and not torch._C._len_torch_dispatch_stack() and torch._C._get_tracing_state() is None  # type: ignore[attr-defined]
    )


def needs_gradient(x: Tensor, bias: Tensor | None, values: Tensor) -> bool:
    """Whether autograd has to see the call."""
    return torch.is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad) or values.requires_grad
    )
