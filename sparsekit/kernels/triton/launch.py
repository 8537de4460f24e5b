"""Whether Triton is there, and one launch of one of its programs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsekit.formats.base import Refusal
from sparsekit.kernels import gpu
from sparsekit.kernels.base import PackedProblem

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Launch:
    """One launch of a program, with all that it is given: what is run on a GPU, and compiled ahead where there is none.

    Args:
        program: ``<file>.<function>`` in ``programs/``.
        grid: blocks of threads, in up to three directions.
        arguments: tensors, numbers and None, in the order of the program's parameters.
        constants: by name, what the program is compiled for, ``num_warps`` and ``num_stages`` included.
    """

    program: str
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Start the program on the current stream of the tensors' device; only compile it within :func:`compiling`."""
        if _COMPILING:
            self.compile()
            return
        device = next(a.device for a in self.arguments if isinstance(a, torch.Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            self.function()[self.grid](*self.arguments, **self.constants)
            return
        with torch.cuda.device(device):
            self.function()[self.grid](*self.arguments, **self.constants)

    def compile(self) -> Any:
        """Compile for the current target and return the compiled kernel, without a launch."""
        return self.function().warmup(*self.arguments, grid=self.grid, **self.constants)

    def function(self) -> Any:
        """Return the program as Triton knows it."""
        file, name = self.program.split(".")
        return getattr(importlib.import_module(f"sparsekit.kernels.triton.programs.{file}"), name)


_COMPILING: list[bool] = []


@contextmanager
def compiling(threads: int) -> Iterator[None]:
    """Compile, several at once, what would be launched within, and launch nothing: results are not written.

    What does not compile says so when it is launched. Without Triton's way to compile in threads, what is launched
    within is launched.
    """
    try:
        mode = importlib.import_module("triton.runtime._async_compile").AsyncCompileMode
    except (ImportError, AttributeError):
        yield
        return
    with ThreadPoolExecutor(threads) as pool, mode(pool, ignore_errors=True):
        _COMPILING.append(True)
        try:
            yield
        finally:
            _COMPILING.pop()


def refuses(problem: PackedProblem, *dtypes: torch.dtype) -> Refusal | None:
    """Return why no Triton kernel runs ``problem``: not installed, not one of ``dtypes``, or not on such a GPU."""
    if importlib.util.find_spec("triton") is None:
        return Refusal("Triton is not installed; pip install 'sparsekit[triton]' does so")
    return gpu.refuses_gpu(problem, dtypes, gpu.DEVICES)


def precision_of(dtype: torch.dtype) -> str:
    """How exact the products of a ``tl.dot`` are: float32 as PyTorch's own matrix products are set, else as they are.

    ``torch.set_float32_matmul_precision("high")`` allows tf32.
    """
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"
