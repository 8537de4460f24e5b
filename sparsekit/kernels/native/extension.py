"""The compiled extension, or the reason why it is not there."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparsekit.errors import FormatError, KernelError
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.base import MultiplyAdd, PackedProblem

FormatT = TypeVar("FormatT", bound=Format)


def load() -> tuple[ModuleType | None, str]:
    """Return the extension and "", or None and the reason why it cannot be loaded.

    Torch is imported before it: the extension uses the OpenMP pool that torch has loaded.
    """
    try:
        return importlib.import_module("sparsekit._C"), ""
    except ImportError as error:
        return None, f"the extension sparsekit._C is not built ({error})"


MODULE, WHY_NOT = load()


def refuses(problem: PackedProblem, *dtypes: torch.dtype) -> Refusal | None:
    """Return why no native kernel runs ``problem``: not built, not one of ``dtypes`` (float32), or not on the CPU."""
    if MODULE is None:
        return Refusal(WHY_NOT)
    if problem.dtype not in (dtypes or (torch.float32,)):
        runs = " and ".join(_short(dtype) for dtype in dtypes or (torch.float32,))
        return Refusal(f"it runs {runs}, not {_short(problem.dtype)}")
    if problem.device.type != "cpu":
        return Refusal(f"it runs on the CPU, not on {problem.device}")
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def laid_out(packed: FormatT) -> FormatT:
    """Return ``packed`` with every part contiguous, as pointers into it expect.

    Raises:
        FormatError: the storage of a part has been made smaller than the part.
    """
    tensors = packed.tensors()
    for name, tensor in tensors.items():
        if (there := tensor.untyped_storage().nbytes()) < (end := _end(tensor)):
            raise FormatError(f"{packed}: expected {name} in a storage of at least {end} bytes, got one of {there}")
    if all(tensor.is_contiguous() and not tensor.is_neg() for tensor in tensors.values()):
        return packed
    return packed.from_parts({name: t.resolve_neg().contiguous() for name, t in tensors.items()}, packed.integers())


def build(native: str, *parts: Any) -> Any:
    """Build the native weight of class ``native`` from sizes, addresses, flags and other native parts.

    Raises:
        KernelError: ``SPARSEKIT_ISA`` is no instruction set.
        FormatError: the parts do not belong together.
    """
    isa_of("probe")  # names a wrong SPARSEKIT_ISA as such
    try:
        return getattr(MODULE, native)(*parts)
    except ValueError as error:
        raise FormatError(str(error)) from error


def isa_of(stem: str) -> str:
    """The instruction set that the kernels of ``stem`` would use now.

    Raises:
        KernelError: ``SPARSEKIT_ISA`` is no instruction set.
    """
    assert MODULE is not None
    try:
        return str(MODULE.isa_of(stem))
    except ValueError as error:
        raise KernelError(str(error)) from error


def multiply_with(native: Any, rows: int, activation: str, *keep: Tensor) -> MultiplyAdd:
    """Wrap a native weight as ``multiply(x, bias, residual)``; ``keep`` are the tensors its pointers point into.

    ``residual`` ``(batch, rows)`` or None is added to the activated result. Operands have the dtype of the weight, or
    are in bfloat16 where the native class converts them itself, as its ``multiply_halves``.
    """
    call, then = native.multiply, ACTIVATIONS.index(activation)
    halves = getattr(native, "multiply_halves", call)

    def multiply(x: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
        _ = keep
        if x.stride(1) != 1 or x.is_neg():
            x = x.resolve_neg().contiguous()
        y = x.new_empty((x.shape[0], rows))
        if bias is not None and (bias.stride(0) != 1 or bias.is_neg()):
            bias = bias.resolve_neg().contiguous()
        if residual is not None and (not residual.is_contiguous() or residual.is_neg()):
            residual = residual.resolve_neg().contiguous()
        operands = (x.data_ptr(), x.shape[0], x.stride(0), 0 if bias is None else bias.data_ptr(), y.data_ptr())
        run = halves if x.dtype is torch.bfloat16 else call
        run(*operands, then, 0 if residual is None else residual.data_ptr())
        return y

    return multiply


def pointer(tensor: Tensor) -> int:
    """The address of a contiguous tensor's first element."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def memory(tensor: Tensor) -> tuple[int, int]:
    """The address of a contiguous tensor's first element, and the bytes of it that are there.

    The extension expects exactly as many as it is going to read.
    """
    there = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
    return pointer(tensor), min(int(there), tensor.numel() * tensor.element_size())


def _end(tensor: Tensor) -> int:
    """Bytes from the start of its storage to behind the last element of ``tensor``."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (int(tensor.storage_offset()) + last + 1) * tensor.element_size()


def on_cache_line(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or a copy where it does not start on a 64-byte cache line."""
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def describe() -> dict[str, Any]:
    """What this build and this processor offer.

    Returns:
        ``built`` (stem to instruction sets), ``in_use`` (stem to the one that would run now), ``cpu_features``,
        ``amx``, the sentence that says why AMX is not used, or "", and ``reason``, the one why there are no native
        kernels, or "".

    Raises:
        KernelError: ``SPARSEKIT_ISA`` is no instruction set.
    """
    if MODULE is None:
        return {"built": {}, "in_use": {}, "cpu_features": [], "amx": "", "reason": WHY_NOT}
    built: dict[str, list[str]] = {}
    for stem, isa in MODULE.built_kernels():
        built.setdefault(stem, []).append(isa)
    in_use = {stem: isa_of(stem) for stem in built}
    found = {"cpu_features": MODULE.cpu_features(), "amx": MODULE.amx_refusal(), "reason": ""}
    return {"built": built, "in_use": in_use, **found}


def measured_peaks(threads: int) -> dict[str, float]:
    """Measure this machine: fp32 multiply-adds from registers, FLOP/s, and reads from memory, bytes/s."""
    if MODULE is None:
        return {}
    isa_of("probe")
    return {"flops": MODULE.peak_flops(threads), "bandwidth": MODULE.read_bandwidth(threads, 256)}
