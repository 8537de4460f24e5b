"""Unpack and convolve: runs every format on every device, gives the gradients, and is the oracle of every test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import FORMATS, Format
from sparsekit.kernels.activation import activated
from sparsekit.kernels.base import Multiply
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem, Pair


def padded_apart(x: Tensor, convolution: Convolution) -> tuple[Tensor, Pair]:
    """Return the input and the padding on either side that torch's convolutions take.

    They pad both sides alike: another padding is added to the input here, and then theirs is 0.
    """
    top, bottom, left, right = convolution.padding
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom)), (0, 0)


def convolve_with(weight: Tensor, convolution: Convolution) -> Multiply:
    """Return ``run(x, bias)``, which is ``F.conv2d`` by the dense ``weight`` ``(out, in / groups, kh, kw)``."""
    device, rest = weight.device.type, (convolution.dilation, convolution.groups)

    def run(x: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return run(x, bias)
        x, padding = padded_apart(x, convolution)
        if x.shape[1] == 1:  # in either order; torch 2.13 on the CPU gets some wrong in that of channels_last
            x = x.squeeze(1).contiguous().unsqueeze(1)
        return activated(F.conv2d(x, weight, bias, convolution.stride, padding, *rest), convolution.activation)

    return run


def _refuses(problem: ConvProblem) -> None:
    """Refuse nothing."""


def _bind(packed: Format, convolution: Convolution) -> Multiply:
    """Unpack once and keep the dense weight: a call costs what ``nn.Conv2d`` does, in bytes and in FLOP."""
    return convolve_with(packed.unpack().reshape(convolution.weight_shape(packed.rows)), convolution)


def gradient_of_images(packed: Format, convolution: Convolution, grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the gradient of the images ``shape`` ``(N, C, H, W)``, given that of the result before its activation."""
    top, bottom, left, right = convolution.padding
    weight = packed.unpack().reshape(convolution.weight_shape(packed.rows))
    padded = grad.new_empty(1).expand(*shape[:2], *convolution.padded_size(shape[2], shape[3]))
    of_padded = _gradients(convolution, grad, padded, weight, (True, False))[0]
    return of_padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]


def gradient_of_weight(convolution: Convolution, grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the dense weight ``(out, in / groups, kh, kw)``, given that of the result."""
    top, bottom, left, right = convolution.padding
    weight = grad.new_empty(1).expand(convolution.weight_shape(grad.shape[1]))
    return _gradients(convolution, grad, F.pad(x, (left, right, top, bottom)), weight, (False, True))[1]


def _gradients(
    convolution: Convolution, grad: Tensor, padded: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of a padded input and of the weight; of what is not ``wanted`` only the shape is read."""
    rest = (convolution.stride, (0, 0), convolution.dilation, False, (0, 0), convolution.groups)
    found = torch.ops.aten.convolution_backward(grad, padded, weight, None, *rest, (*wanted, False))
    return found[0], found[1]


REFERENCE_CONV_KERNELS = tuple(
    ConvKernel(f"{family.name}_conv_reference", family, _refuses, _bind) for family in FORMATS
)
