"""onnxruntime and OpenVINO, opened as a user would for the shortest time of one input."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

ABSENT = "absent: "


def installed(package: str) -> str:
    """Return name and version of a distribution.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise ImportError(f"{package} not installed") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters and quantisers say of themselves off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def onnxruntime_session(model: bytes | str, threads: int) -> Any:
    """Return a session of onnxruntime on the CPU.

    Args:
        model: an ONNX model, or the path of one.
        threads: how many it uses.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # not into the turn of the next
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def openvino_request(model: Any, threads: int, precision: str) -> Any:
    """Return an inference request of OpenVINO on the CPU.

    Args:
        model: one of OpenVINO's.
        threads: how many it uses.
        precision: "f32" or "bf16", of what is not stored in 8 bits.
    """
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    core = importlib.import_module("openvino").Core()
    return core.compile_model(model, "CPU", settings).create_infer_request()
