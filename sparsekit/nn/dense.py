"""What is read from a dense layer before its weight is packed, and the dense layer made of a packed one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparsekit.errors import LayerError
from sparsekit.formats.base import FLOATING
from sparsekit.kernels.convolution import Convolution
from sparsekit.mask import Mask, read_mask
from sparsekit.nn.border import PaddingMode
from sparsekit.patterns import Unstructured


def weight_of(layer: nn.Module, kind: type[nn.Linear] | type[nn.Conv2d], where: str) -> Tensor:
    """Return the weight of ``layer``, which must be a ``kind``.

    Raises:
        LayerError: it is another layer, or has no data, or its weight is no floating tensor; begins with ``where``.
    """
    if not isinstance(layer, kind):
        raise LayerError(f"{where}: expected a torch.nn.{kind.__name__}, got {type(layer).__name__}")
    weight = layer.weight
    if isinstance(weight, UninitializedParameter) or weight.is_meta:
        raise LayerError(f"{where}: expected a {kind.__name__} with data, got one that is on the meta device or lazy")
    if weight.dtype not in FLOATING:
        raise LayerError(f"{where}: expected a float64, float32, bfloat16 or float16 weight, got {weight.dtype}")
    return weight.detach()


def mask_of(weight: Tensor, mask: Mask | Tensor | None) -> Mask:
    """Return ``mask`` as a mask of ``weight``: a bool tensor is an unstructured one; None = read the zeros.

    Raises:
        MaskError: it does not belong to the weight.
    """
    if mask is None:
        mask = read_mask(weight)
    elif isinstance(mask, Tensor):
        mask = Mask(mask, Unstructured())
    mask.check(weight, "weight")
    return mask


class _Biased(Protocol):
    bias: nn.Parameter | None


def bias_of(layer: nn.Linear | nn.Conv2d | _Biased) -> nn.Parameter | None:
    """Return a copy of the bias of ``layer`` that asks for a gradient where that one does, or None."""
    if layer.bias is None:
        return None
    return nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)


def conv2d_of(
    convolution: Convolution, out_channels: int, bias: bool, padding_mode: PaddingMode, where: str
) -> nn.Conv2d:
    """Return a Conv2d on the meta device that does what ``convolution`` does, but for its activation.

    Raises:
        LayerError: it pads as torch's Conv2d cannot; begins with ``where``.
    """
    top, bottom, left, right = convolution.padding
    padding: str | tuple[int, int] = (top, left)
    if top != bottom or left != right:
        if convolution.padding != convolution.same_padding or convolution.stride != (1, 1):
            raise LayerError(f"{where}: expected a padding that torch.nn.Conv2d has, got {convolution.padding}")
        padding = "same"
    return nn.Conv2d(
        convolution.in_channels,
        out_channels,
        convolution.kernel_size,
        convolution.stride,
        padding,
        convolution.dilation,
        convolution.groups,
        bias,
        padding_mode,
        device="meta",
    )
