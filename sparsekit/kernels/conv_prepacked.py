"""Dense convolutions with the weight laid out ahead: the dense ways that sparse has to beat.

Both return their result in channels_last order, whatever the order of the input: oneDNN works in it.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from sparsekit.formats import Dense
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import Multiply
from sparsekit.kernels.conv_reference import convolve_with
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem

_ATTRIBUTES = {"none": "none", "relu": "relu", "silu": "swish"}


def _bind_onednn(packed: Format, convolution: Convolution) -> Multiply:
    """Pack for the size of the first call; others reuse that packing, which stays right and as fast."""
    weight = packed.values.reshape(convolution.weight_shape(packed.rows))
    (top, _, left, _), attribute = convolution.padding, _ATTRIBUTES[convolution.activation]
    settings = ([top, left], list(convolution.stride), list(convolution.dilation), convolution.groups)
    prepared: list[Tensor] = []
    lock = threading.Lock()

    def run(x: Tensor, bias: Tensor | None) -> Tensor:
        if not prepared:
            with lock, torch.inference_mode(False), torch.no_grad():
                if not prepared:
                    prepared.append(torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, list(x.shape)))
        if bias is not None:
            bias = bias.contiguous()  # oneDNN reads it as if it were
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, prepared[0], bias, *settings, attribute, [], "")
        return y

    return run


def _bind_channels_last(packed: Format, convolution: Convolution) -> Multiply:
    """Convolve by a weight in channels_last order, in which ``F.conv2d`` then works."""
    weight = packed.values.reshape(convolution.weight_shape(packed.rows))
    run = convolve_with(weight.contiguous(memory_format=torch.channels_last), convolution)
    return lambda x, bias: run(x.contiguous(memory_format=torch.channels_last), bias)


def _refuses_empty(problem: ConvProblem) -> Refusal | None:
    if problem.device.type != "cpu":
        return Refusal(f"it runs on the CPU, not on {problem.device}")
    if not problem.packed.values.numel() or problem.size[0] == 0:
        return Refusal("it needs a weight and a batch that are not empty")
    return None


def _refuses_onednn(problem: ConvProblem) -> Refusal | None:
    if not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
        return Refusal("this torch has no oneDNN")
    wide = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if problem.dtype not in ((torch.float32, torch.bfloat16) if wide else (torch.float32,)):
        return Refusal(f"it does not run {str(problem.dtype).removeprefix('torch.')}")
    top, bottom, left, right = problem.convolution.padding
    if top != bottom or left != right:
        return Refusal(f"it pads both sides alike, not by {problem.convolution.padding} (top, bottom, left, right)")
    return _refuses_empty(problem)


DENSE_CONV_ONEDNN = ConvKernel("dense_conv_onednn", Dense, _refuses_onednn, _bind_onednn)
"""Cost: 2 FLOP per weight and output pixel; a second copy of the weight in oneDNN's order. The activation is fused."""

DENSE_CONV_CHANNELS_LAST = ConvKernel("dense_conv_channels_last", Dense, _refuses_empty, _bind_channels_last)
"""Cost: 2 FLOP per weight and output pixel; a second copy of the weight."""

PREPACKED_CONV_KERNELS: tuple[ConvKernel, ...] = (DENSE_CONV_ONEDNN, DENSE_CONV_CHANNELS_LAST)
