"""OpenVINO: dense, in fp32, bf16 and 8 bits, in the graphs that its own tool NNCF writes."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsekit.bench.peers.base import Call, Layer, Peer
from sparsekit.bench.runtimes import openvino_request

LEVELS = 127


def _compile(layer: Layer, weight: Any, x: Any, to: Any, precision: str) -> Call:
    """Compile ``to @ weight.T + bias`` from the parameter ``x``; ``to`` is what is made of ``x``."""
    openvino, ops = importlib.import_module("openvino"), importlib.import_module("openvino.opset13")
    bias = ops.constant(layer.bias.float().numpy())
    result = ops.add(ops.matmul(to, weight, False, True), bias)
    request = openvino_request(openvino.Model([result], [x], "linear"), layer.threads, precision)
    given = layer.x.float().contiguous().numpy()
    request.set_input_tensor(openvino.Tensor(given, shared_memory=True))
    request.infer()
    y = torch.from_numpy(request.get_output_tensor().data)

    def run() -> Tensor:
        _ = given  # read by OpenVINO, which does not keep it
        request.infer()
        return y

    return run


def _parameter(layer: Layer) -> Any:
    openvino, ops = importlib.import_module("openvino"), importlib.import_module("openvino.opset13")
    return ops.parameter(list(layer.x.shape), openvino.Type.f32)


def _dense(layer: Layer, precision: str) -> Call:
    ops, x = importlib.import_module("openvino.opset13"), _parameter(layer)
    return _compile(layer, ops.constant(layer.weight.float().numpy()), x, x, precision)


def _int8_weight(layer: Layer) -> Any:
    """The weight in 8 bits with a scale per output, as NNCF stores it."""
    openvino, ops = importlib.import_module("openvino"), importlib.import_module("openvino.opset13")
    scale = layer.weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
    stored = ops.constant((layer.weight / scale).round().to(torch.int8).numpy())
    return ops.multiply(ops.convert(stored, openvino.Type.f32), ops.constant(scale.numpy()))


def _int8(layer: Layer) -> Call:
    """Weights and activations in 8 bits; the range of activations was seen beforehand, as by ``nncf.quantize``."""
    ops, x, most = importlib.import_module("openvino.opset13"), _parameter(layer), float(layer.x.abs().max())
    ends = [ops.constant([[end]], dtype="float32") for end in (-most * (LEVELS + 1) / LEVELS, most) * 2]
    return _compile(layer, _int8_weight(layer), x, ops.fake_quantize(x, *ends, 2 * LEVELS + 2), "f32")


def _int8_weights_only(layer: Layer) -> Call:
    """Weights in 8 bits, as ``nncf.compress_weights`` stores them; OpenVINO chooses how to multiply."""
    x = _parameter(layer)
    return _compile(layer, _int8_weight(layer), x, x, "f32")


def _refuses_other(layer: Layer, dtype: torch.dtype) -> str:
    return "" if layer.weight.dtype is dtype else f"it is timed beside {str(dtype).removeprefix('torch.')} only"


_beside_float32 = partial(_refuses_other, dtype=torch.float32)
_BESIDE_INT8: tuple[str, ...] = ("float32", "int8")
OPENVINO_PEERS = (
    Peer("OpenVINO", "openvino", partial(_dense, precision="f32"), _beside_float32, own_threads=True),
    Peer("OpenVINO bf16", "openvino", partial(_dense, precision="bf16"), beside=("bfloat16",), own_threads=True),
    Peer("OpenVINO int8", "openvino", _int8, _beside_float32, beside=_BESIDE_INT8, rounds=True, own_threads=True),
    Peer(
        "OpenVINO int8 weights",
        "openvino",
        _int8_weights_only,
        _beside_float32,
        beside=_BESIDE_INT8,
        rounds=True,
        own_threads=True,
    ),
)
