"""The product by 8-bit weights in plain torch: exact integers, and the oracle of what is native.

``y = (q_x @ q_w.T) * (step_x * scale_w) + bias``: every token is rounded to 8 bits with a step of its own, in float32,
whatever the dtype of the layer; the integer products and their sums are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import KernelError
from sparsekit.formats import QUANTIZED_FORMATS, Format, Quantized
from sparsekit.formats.quantized import MOST
from sparsekit.kernels.base import GradientKernel, Gradients, Kernel, Multiply, Problem

LEAST_SIZE = 2.0**-100
"""Tokens all of whose activations are smaller get the step of this size: 127 over it is still finite."""


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of ``x`` ``(batch, columns)`` to integers in [-127, 127], ties to even.

    Returns:
        The integers and the steps ``(batch,)``, both float32; the step is ``max |x| / 127``, and NaN where a row holds
        a number that is not finite.
    """
    x = x.float()
    size = x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(x.shape[0])
    finite = size.isfinite()
    size = size.masked_fill(~finite, 1.0).clamp(min=LEAST_SIZE)
    inverse = torch.full_like(size, MOST) / size  # torch divides a number by a tensor in two roundings
    integers = torch.round(x.masked_fill(~finite[:, None], 0.0) * inverse[:, None])
    return integers, (size / MOST).masked_fill(~finite, torch.nan)


def _refuses(problem: Problem) -> None:
    """Refuse nothing."""


def _bind(packed: Format) -> Multiply:
    """Unpack the integers once; float64 holds every sum of their products."""
    assert isinstance(packed, Quantized)
    weight, scales, dtype = packed.integer_matrix(torch.float64), packed.scales.float(), packed.dtype

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            integers, steps = quantize_tokens(x)
            y = (integers.double() @ weight.T).float() * (steps[:, None] * scales)
            return (y if bias is None else y + bias.float()).to(dtype)

    return multiply


def _bind_gradients(packed: Format, places: dict[str, Tensor]) -> Gradients:
    """The gradient of the input goes straight through the rounding of activations."""

    def of_x(grad: Tensor) -> Tensor:
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ packed.unpack()

    def of_part(grad: Tensor, x: Tensor, name: str) -> Tensor:
        raise KernelError(f"{packed.name}: expected weights that are not trained, since they are rounded to 8 bits")

    return Gradients(of_x, of_part)


QUANTIZED_REFERENCE_KERNELS = tuple(
    Kernel(f"{family.name}_linear_reference", family, _refuses, _bind) for family in QUANTIZED_FORMATS
)
QUANTIZED_GRADIENT_KERNELS = tuple(
    GradientKernel(f"{family.name}_gradients_reference", family, _refuses, _bind_gradients)
    for family in QUANTIZED_FORMATS
)
