"""Unpack and multiply: runs every format on every device, and is the oracle of every test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import FORMATS, Format
from sparsekit.kernels.base import Kernel, Multiply, Problem


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


REFERENCE_KERNELS = tuple(Kernel(f"{family.name}_linear_reference", family, _refuses, _bind) for family in FORMATS)
