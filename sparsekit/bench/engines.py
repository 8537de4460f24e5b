"""A whole text encoder in onnxruntime and in OpenVINO, dense: what a user would otherwise run.

``pip install 'sparsekit[bench]'`` installs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.bench.runtimes import ABSENT, installed, onnxruntime_session, openvino_request, quiet
from sparsekit.demo.minilm.encoder import Batch

Call = Callable[[], Tensor]


class _States(nn.Module):
    """The token states alone, from positional inputs, which is what an exporter can name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the states ``(texts, tokens, hidden)``."""
        states: Tensor = self.model(input_ids=inputs[0], attention_mask=inputs[1])[0]
        return states


class Exported:
    """An encoder written as ONNX, once for all engines.

    Args:
        model: in float32.
        sheet: ``input_ids`` and ``attention_mask``, of the size that is timed.
        folder: where the files go.

    Attributes:
        threads: threads that an engine may use.
    """

    def __init__(self, model: nn.Module, sheet: Batch, folder: Path) -> None:
        self.model, self.sheet, self.folder, self.threads = model, sheet, folder, 1
        self.feed = {name: tensor.numpy() for name, tensor in sheet.items()}

    @cached_property
    def float32(self) -> Path:
        """The model as it is."""
        path = self.folder / "float32.onnx"
        with quiet(), torch.no_grad():
            torch.onnx.export(
                _States(self.model).eval(),
                tuple(self.sheet.values()),
                str(path),
                input_names=list(self.sheet),
                output_names=["states"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        return path

    def quantised(self, how: str, **settings: Any) -> Path:
        """The model with the products by weights in 8 bits, made once by onnxruntime's tool of the name ``how``."""
        tool, path = importlib.import_module("onnxruntime.quantization"), self.folder / f"{how}.onnx"
        if path.exists():
            return path
        with quiet():
            getattr(tool, how)(
                self.float32,
                path,
                per_channel=True,
                weight_type=tool.QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                **settings,
            )
        return path

    @cached_property
    def with_ranges(self) -> Path:
        """The model in 8 bits with the ranges of its activations, as the sheet shows them."""
        tool = importlib.import_module("onnxruntime.quantization")
        sheets = iter([self.feed])
        reader = type("Reader", (tool.CalibrationDataReader,), {"get_next": lambda self: next(sheets, None)})()
        return self.quantised("quantize_static", calibration_data_reader=reader, quant_format=tool.QuantFormat.QDQ)


def _onnxruntime(of: Exported, how: str = "") -> Call:
    session = onnxruntime_session(str(of.quantised(how) if how else of.float32), of.threads)
    feed = {given.name: of.feed[given.name] for given in session.get_inputs()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _openvino(of: Exported, precision: str, eight_bits: bool = False) -> Call:
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(str(of.with_ranges if eight_bits else of.float32))
    names = [given.any_name for given in model.inputs]
    model.reshape({name: list(of.feed[name].shape) for name in names})
    request = openvino_request(model, of.threads, precision)
    feed = {name: of.feed[name] for name in names}
    return lambda: torch.from_numpy(request.infer(feed)[0])


@dataclass(frozen=True)
class Engine:
    """One way to run an encoder.

    Args:
        name: library first, then the precision.
        packages: the distributions that it needs; the first one's version is noted.
        bind: what returns the states, given the encoder.
        eight_bits: whether products are computed in 8 bits, by ranges that cost accuracy.
    """

    name: str
    packages: tuple[str, ...]
    bind: Callable[[Exported], Call]
    eight_bits: bool = False

    @property
    def presence(self) -> tuple[bool, str]:
        """Whether it is there, and its version or what is missing."""
        try:
            version, *_ = [installed(package) for package in self.packages]
        except ImportError as error:
            return False, f"{ABSENT}{error}"
        return True, version


_WRITERS = ("onnx", "onnxscript")
ENGINES = (
    Engine("onnxruntime", ("onnxruntime", *_WRITERS), _onnxruntime),
    Engine("onnxruntime int8", ("onnxruntime", *_WRITERS), partial(_onnxruntime, how="quantize_dynamic"), True),
    Engine("OpenVINO", ("openvino", *_WRITERS), partial(_openvino, precision="f32")),
    Engine("OpenVINO bf16", ("openvino", *_WRITERS), partial(_openvino, precision="bf16")),
    Engine(
        "OpenVINO int8",
        ("openvino", "onnxruntime", *_WRITERS),
        partial(_openvino, precision="f32", eight_bits=True),
        True,
    ),
    Engine(
        "OpenVINO int8 and bf16",
        ("openvino", "onnxruntime", *_WRITERS),
        partial(_openvino, precision="bf16", eight_bits=True),
        True,
    ),
)
"""Where the last two differ is in the precision of what is no product by a weight."""
