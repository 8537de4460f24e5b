"""What a layer may apply to its result, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

APPLY: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""Each activation as torch computes it."""

ACTIVATIONS: tuple[str, ...] = tuple(APPLY)


def activated(y: Tensor, activation: str) -> Tensor:
    """Apply ``activation`` to ``y``, which nobody else holds, in place."""
    if activation == "relu":
        return y.relu_()
    if activation == "silu":
        return F.silu(y, inplace=True)
    if activation != "none":
        torch.ops.aten.gelu_(y, approximate="tanh" if activation == "gelu_tanh" else "none")
    return y
