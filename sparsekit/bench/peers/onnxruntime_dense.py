"""onnxruntime: dense, fp32 and quantised to 8 bits by its own tool."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekit.bench.peers.base import Call, Layer, Peer, only_float32
from sparsekit.bench.runtimes import onnxruntime_session, quiet


def onnx_model(layer: Layer) -> Any:
    """``x @ weight.T + bias`` as an ONNX model; inputs ``x``, outputs ``y``."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = importlib.import_module("onnx.helper"), importlib.import_module("onnx.numpy_helper")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    kept = {"weight": layer.weight.T.contiguous(), "bias": layer.bias}
    parts = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in kept.items()]
    ends = (("x", layer.x.shape), ("y", (layer.batch, layer.weight.shape[0])))
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tuple(shape)) for name, shape in ends)
    graph = helper.make_graph(nodes, "linear", [x], [y], parts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _session(model: bytes, layer: Layer) -> Call:
    session = onnxruntime_session(model, layer.threads)
    feed = {"x": layer.x.numpy()}

    def run() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def _float32(layer: Layer) -> Call:
    return _session(onnx_model(layer).SerializeToString(), layer)


def _int8(layer: Layer) -> Call:
    """Dynamic quantisation: 8-bit weights by output, activations by tensor in every call."""
    tool = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        importlib.import_module("onnx").save(onnx_model(layer), given)
        with quiet():  # that the model could have been optimised before
            tool.quantize_dynamic(given, made, per_channel=True, weight_type=tool.QuantType.QInt8)
        return _session(made.read_bytes(), layer)


ONNXRUNTIME_PEERS = (
    Peer("onnxruntime", "onnxruntime", _float32, only_float32, own_threads=True),
    Peer(
        "onnxruntime int8",
        "onnxruntime",
        _int8,
        only_float32,
        beside=("float32", "int8"),
        rounds=True,
        own_threads=True,
    ),
)
