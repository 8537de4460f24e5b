"""Triton's programs run on a GPU where there is one, else on the CPU in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sparsekit.kernels import gpu


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the programs run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _interpreter(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels for GPUs run where the tests do, and mend the interpreter of Triton 3.6.

    Its products of bfloat16 multiply the bits, and numpy from 2.4 on does not take its arrays for integers.
    """
    if device.type == "cpu":
        monkeypatch.setattr(gpu, "DEVICES", ("cuda", "cpu"))
        interpreter = pytest.importorskip("triton.runtime.interpreter")
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot)
        patch = interpreter._patch_lang_tensor

        def patch_and_mend(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_and_mend)
    with np.errstate(over="ignore"):  # exp(-x) of a sigmoid may be infinite
        yield


def _dot(builder, a, b, d, input_precision, max_num_imprecise_acc):
    total = np.matmul(_numbers(a), _numbers(b), dtype=d.data.dtype) + d.data
    return type(d)(total, d.dtype.scalar)


def _numbers(operand):
    """The numbers of a matrix; the interpreter keeps bfloat16 as the integers of its bits."""
    if operand.dtype.scalar.name != "bf16":
        return operand.data
    return (operand.data.astype(np.uint32) << 16).view(np.float32)
