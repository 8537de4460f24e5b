"""Unpack and multiply: runs every format on every device, and is the oracle of every test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import FORMATS, Format, gather, positions
from sparsekit.kernels.base import GradientKernel, Gradients, Kernel, Multiply, Problem


def _refuses(problem: Problem) -> None:
    """Refuse nothing."""


def _bind(packed: Format) -> Multiply:
    """Unpack once and keep the dense matrix: a product costs what the dense one does, in bytes and in FLOP."""
    weight = packed.unpack()
    device = weight.device.type

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return F.linear(x, weight, bias)
        return F.linear(x, weight, bias)

    return multiply


def _bind_gradients(packed: Format, places: dict[str, Tensor]) -> Gradients:
    """Unpack in every call, since in training no two calls see the same values; find the kept weights once."""
    device = packed.values.device.type

    def of_x(grad: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            return grad @ packed.unpack()

    def of_part(grad: Tensor, x: Tensor, name: str) -> Tensor:
        if name not in places:
            places.update(positions(packed))
        with torch.autocast(device, enabled=False):
            return gather(grad.T @ x, places[name])

    return Gradients(of_x, of_part)


REFERENCE_KERNELS = tuple(Kernel(f"{family.name}_linear_reference", family, _refuses, _bind) for family in FORMATS)
REFERENCE_GRADIENT_KERNELS = tuple(
    GradientKernel(f"{family.name}_gradients_reference", family, _refuses, _bind_gradients) for family in FORMATS
)
