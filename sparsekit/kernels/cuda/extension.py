"""The compiled CUDA extension, or the reason why it is not there, and what a GPU must be able to do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparsekit.errors import KernelError
from sparsekit.formats.base import Refusal
from sparsekit.kernels import gpu
from sparsekit.kernels.base import Problem


def load() -> tuple[ModuleType | None, str]:
    """Return the extension and "", or None and the reason why it cannot be loaded."""
    try:
        return importlib.import_module("sparsekit._cuda"), ""
    except ImportError as error:
        return None, f"the extension sparsekit._cuda is not built ({error})"


MODULE, WHY_NOT = load()


def refuses(problem: Problem) -> Refusal | None:
    """Return why no CUDA kernel runs ``problem``: not built, not 16 bits, or not on such a GPU."""
    if MODULE is None:
        return Refusal(WHY_NOT)
    return refuses_operands(problem) or refuses_capability(gpu.gpu_of(problem.device), MODULE.architectures)


def refuses_operands(problem: Problem) -> Refusal | None:
    """Return why 16-bit tensor cores do not run ``problem``: its dtype, its device, or that nothing is to be done."""
    return gpu.refuses_gpu(problem, gpu.HALVES)


def refuses_capability(found: gpu.Gpu, architectures: str) -> Refusal | None:
    """Return why ``found`` runs nothing of a build for ``architectures``, such as "80,90a"."""
    if any(serves(architecture, found.capability) for architecture in architectures.split(",")):
        return None
    return Refusal(f"this build is for {architectures} and newer, not for compute capability {found.capability_text}")


def refuses_other_than_hopper(found: gpu.Gpu, architectures: str) -> Refusal | None:
    """Return why ``found`` cannot run wgmma: it is not of compute capability 9.0, or the build leaves 9.0a out."""
    if found.capability != (9, 0):
        return Refusal(f"it needs the wgmma of compute capability 9.0, and {found.name} has {found.capability_text}")
    if "90a" not in architectures.split(","):
        return Refusal(f"this build is for {architectures}, without 90a")
    return None


def refuses_shared_memory(needed: int, found: gpu.Gpu) -> Refusal | None:
    """Return why a thread block of ``needed`` bytes of shared memory does not fit the GPU."""
    if needed <= found.shared_bytes:
        return None
    there = found.shared_bytes
    return Refusal(f"it needs {needed} bytes of shared memory for this batch, and {found.name} gives a block {there}")


def serves(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code built for ``architecture`` runs: one with a letter on that GPU alone, others on newer ones too."""
    digits = architecture.rstrip("af")
    own = (int(digits[:-1]), int(digits[-1]))
    return capability >= own if digits == architecture else capability == own


def call(native: Callable[..., None], device: torch.device, *arguments: Any) -> None:
    """Call ``native`` with ``arguments`` and the current stream of ``device``.

    Raises:
        KernelError: what the CUDA runtime or the driver answered.
    """
    here = torch.cuda.current_device() == device.index
    with nullcontext() if here else torch.cuda.device(device):
        try:
            native(*arguments, torch.cuda.current_stream(device).cuda_stream)
        except RuntimeError as error:
            raise KernelError(str(error)) from error


def readable(x: Tensor) -> Tensor:
    """Return ``x`` ``(batch, columns)`` as 16-byte loads and the copy engine can read it, or a copy that they can.

    Each row has to be contiguous and start on a multiple of 16 bytes; in a copy, rows are padded to that.
    """
    columns = x.shape[1]
    aligned = x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.stride(0) >= columns and x.data_ptr() % 16 == 0
    if aligned and not x.is_neg():
        return x
    padded = x.new_empty((x.shape[0], columns + -columns % 8))
    padded[:, :columns] = x
    return padded[:, :columns]
