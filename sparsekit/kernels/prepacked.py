"""Dense weights packed ahead for oneDNN and MKL: the dense ways that sparse has to beat.

``F.linear`` reorders its weight in every call; these do so once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsekit.formats import Dense
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import Kernel, Multiply, Problem

Prepare = Callable[[Tensor, int], Multiply]

_ATTRIBUTES = {
    "none": ("none", ""),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
"""What oneDNN calls an activation, and the way it is computed."""


def _onednn(weight: Tensor, batch: int, activation: str = "none") -> Multiply:
    attribute, way = _ATTRIBUTES[activation]
    prepacked = torch.ops.mkldnn._reorder_linear_weight(weight, batch)

    def multiply(x: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
        if bias is not None:
            bias = bias.contiguous()  # oneDNN reads it as if it were
        y: Tensor
        if residual is not None and activation == "none":  # it fuses one of the two
            y = torch.ops.mkldnn._linear_pointwise.binary(x, residual.resolve_neg(), prepacked, bias, "add")
            return y
        y = torch.ops.mkldnn._linear_pointwise(x, prepacked, bias, attribute, [], way)
        return y if residual is None else y.add_(residual)

    return multiply


def _mkl(weight: Tensor, batch: int) -> Multiply:
    prepacked = torch.ops.mkl._mkl_reorder_linear_weight(weight, batch)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = torch.ops.mkl._mkl_linear(x, prepacked, weight, bias, batch)
        return y

    return multiply


def _bind(packed: Format, prepare: Prepare) -> Multiply:
    """Pack for the batch size of the first call; others reuse that packing, which stays right and nearly as fast."""
    prepared: list[Callable[..., Tensor]] = []
    lock = threading.Lock()

    def multiply(x: Tensor, bias: Tensor | None, *residual: Tensor | None) -> Tensor:
        if not prepared:
            with lock:
                if not prepared:
                    prepared.append(prepare(packed.values, x.shape[0]))
        return prepared[0](x, bias, *residual)

    return multiply


def _refuses(problem: Problem, library: str, there: bool, dtypes: tuple[torch.dtype, ...]) -> Refusal | None:
    if not there:
        return Refusal(f"this torch has no {library}")
    if problem.device.type != "cpu":
        return Refusal(f"it runs on the CPU, not on {problem.device}")
    if problem.dtype not in dtypes:
        return Refusal(f"it does not run {str(problem.dtype).removeprefix('torch.')}")
    if not problem.packed.values.numel() or problem.batch == 0:
        return Refusal("it needs a weight and a batch that are not empty")
    return None


def _refuses_onednn(problem: Problem) -> Refusal | None:
    there = hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    wide = there and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return _refuses(problem, "oneDNN", there, (torch.float32, torch.bfloat16) if wide else (torch.float32,))


def _refuses_mkl(problem: Problem) -> Refusal | None:
    there = hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight")
    return _refuses(problem, "MKL", there, (torch.float32,))


def _bind_onednn(packed: Format, activation: str = "none") -> Multiply:
    return _bind(packed, partial(_onednn, activation=activation))


DENSE_ONEDNN = Kernel("dense_linear_onednn", Dense, _refuses_onednn, _bind_onednn, ACTIVATIONS, adds_residual=True)
"""Cost: 2 FLOP per weight and token; a second copy of the weight in oneDNN's order."""

DENSE_MKL = Kernel("dense_linear_mkl", Dense, _refuses_mkl, lambda packed: _bind(packed, _mkl))
"""Cost: 2 FLOP per weight and token; a second copy of the weight in MKL's order."""

PREPACKED_KERNELS: tuple[Kernel, ...] = (DENSE_ONEDNN, DENSE_MKL)
