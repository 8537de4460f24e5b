"""Packed weights with their kernels bound: what is derived from a weight is derived once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparsekit.formats import Format, format_named
from sparsekit.kernels.base import (
    GradientKernel,
    Gradients,
    Kernel,
    Multiply,
    MultiplyAdd,
    PackedProblem,
    Problem,
    Runs,
    RunsT,
    choose,
)
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem, Size

Stamp = tuple[object, ...]
ResultT = TypeVar("ResultT")


class Bound:
    """One packed weight and the kernels that were bound to it, safe to use from several threads.

    It holds aliases of the packed tensors, not the tensors themselves: it can be stored under a weak reference to
    one of them without keeping it alive.
    """

    def __init__(self, packed: Format, stamp: Stamp, places: dict[str, Tensor]) -> None:
        aliases = {name: tensor.detach() for name, tensor in packed.tensors().items()}
        self.packed = packed.from_parts(aliases, packed.integers())
        self.stamp = stamp
        self.chosen: dict[tuple[object, ...], Any] = {}
        """Room for the caller to remember which multiply it chose for which call."""
        self.places = places
        """What gradient kernels derived from the places of the kept weights; it outlives a change of the values."""
        self._bound: dict[Hashable, tuple[Runs[Any], Any]] = {}

    def multiply(
        self, batch: int, names: Mapping[int, str], kernels: Iterable[Kernel], activation: str = "none"
    ) -> MultiplyAdd:
        """Return the bound multiply for ``batch``, which activates and adds a residual; see :func:`select`."""
        kernel = select(Problem(self.packed, batch, torch.get_num_threads()), names, kernels)
        return self._once(kernel, (kernel.name, activation), lambda: kernel.bind_with(self.packed, activation))

    def convolve(
        self, convolution: Convolution, size: Size, names: Mapping[Size, str], kernels: Iterable[ConvKernel]
    ) -> Multiply:
        """Return the bound convolution for ``(N, H, W)``; see :func:`select`."""
        kernel = select(ConvProblem(self.packed, convolution, size, torch.get_num_threads()), names, kernels)
        return self._once(kernel, (kernel.name, convolution), lambda: kernel.bind(self.packed, convolution))

    def gradients(self, batch: int, kernels: Iterable[GradientKernel]) -> Gradients:
        """Return the bound gradients for ``batch`` by the first kernel that does not refuse."""
        kernel = choose(Problem(self.packed, batch, torch.get_num_threads()), kernels)
        return self._once(kernel, (kernel.name, "gradients"), lambda: kernel.bind(self.packed, self.places))

    def _once(self, kernel: Runs[Any], key: Hashable, bind: Callable[[], ResultT]) -> ResultT:
        """Return what ``bind`` gave when ``kernel`` was bound under ``key``."""
        found = self._bound.get(key)
        if found is None or found[0] is not kernel:
            with torch.inference_mode(False), torch.no_grad():
                found = self._bound[key] = (kernel, bind())
        result: ResultT = found[1]
        return result


def select(problem: PackedProblem, names: Mapping[Any, str], kernels: Iterable[RunsT]) -> RunsT:
    """Return the kernel that ``names`` gives for the problem's size, or the first that does not refuse the problem.

    A name that is unknown here, or whose kernel refuses, is passed over: a plan may come from another machine.

    Raises:
        KernelError: every kernel refuses.
    """
    kernels = tuple(kernels)
    wanted = names.get(problem.key)
    for kernel in kernels:
        if kernel.name == wanted and kernel.format is type(problem.packed) and kernel.refuses(problem) is None:
            return kernel
    return choose(problem, kernels)


_BOUND: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_LOCK = threading.Lock()


def bound(name: str, parts: Sequence[Tensor], integers: Sequence[int]) -> Bound:
    """Return the :class:`Bound` of the format ``name`` with these tensors and integers, in the order of its fields.

    It is made once and lives as long as the ``values`` tensor. An in-place change of a part makes a new one, which
    takes over what the places of the kept weights gave where only floating parts have changed.
    """
    stamp = (_stamp(part for part in parts if part.is_floating_point()), _structure(name, parts, integers))
    found: Bound | None = _BOUND.get(parts[0])  # type: ignore[no-untyped-call]
    if found is None or found.stamp != stamp:
        family = format_named(name)
        packed = family.from_parts(dict(zip(family.tensor_names(), parts)), dict(zip(family.integer_names(), integers)))
        places = found.places if found is not None and found.stamp[1] == stamp[1] else {}
        with _LOCK:
            found = _BOUND[parts[0]] = Bound(packed, stamp, places)
    return found


def _stamp(parts: Iterable[Tensor]) -> Stamp:
    """Changes when one of ``parts`` is another tensor or has been changed in place."""
    return tuple(mark for part in parts for mark in (part.data_ptr(), version(part)))


def _structure(name: str, parts: Sequence[Tensor], integers: Sequence[int]) -> Stamp:
    return (name, *integers, *_stamp(part for part in parts if not part.is_floating_point()))


def version(tensor: Tensor) -> int:
    """Count of the in-place changes of ``tensor``; 0 for an inference tensor, which keeps no count."""
    return 0 if tensor.is_inference() else tensor._version
