"""Modules that do what a layer can apply to its result on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import nn

OF_TRANSFORMERS = {"GELUActivation": F.gelu, "SiLUActivation": None}
"""Classes of ``transformers.activations`` and the function that each must call; None where it can call no other."""


def activation_of(module: nn.Module | None) -> str | None:
    """Return the name, in :data:`~sparsekit.kernels.activation.ACTIVATIONS`, of what ``module`` applies, or None."""
    kind = type(module)
    if kind is nn.ReLU:
        return "relu"
    if kind is nn.SiLU:
        return "silu"
    if isinstance(module, nn.GELU) and kind is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate)
    if kind.__module__ == "transformers.activations" and kind.__name__ in OF_TRANSFORMERS:
        wanted = OF_TRANSFORMERS[kind.__name__]
        return None if getattr(module, "act", None) is not wanted else "gelu" if wanted else "silu"
    return None


def module_of(activation: str) -> nn.Module | None:
    """Return a module of torch that applies ``activation``, or None for "none"."""
    made: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    }
    return made[activation]() if activation in made else None
