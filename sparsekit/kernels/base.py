"""What a kernel is: code that runs one format on one device, and says in a sentence what it refuses.

A :class:`Kernel` multiplies, a :class:`GradientKernel` does what training needs besides, and a
:class:`~sparsekit.kernels.convolution.ConvKernel` convolves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from sparsekit.errors import KernelError
from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.activation import activated

Multiply = Callable[[Tensor, Tensor | None], Tensor]


class MultiplyAdd(Protocol):
    """A multiply that adds ``residual``, of the result's shape, to what it returns."""

    def __call__(self, x: Tensor, bias: Tensor | None, residual: Tensor | None = None, /) -> Tensor:
        """Return ``activation(x @ W.T + bias) + residual``."""


@dataclass(frozen=True)
class PackedProblem(ABC):
    """What is to be computed with one packed weight, ``(rows, columns)``."""

    packed: Format

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weight, input and output."""
        return self.packed.dtype

    @property
    def device(self) -> torch.device:
        """The device of weight, input and output."""
        return self.packed.values.device

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """The size of the input, by which a plan names the kernels of a layer."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What a kernel would do with the weight: verb, format, size."""


@dataclass(frozen=True)
class Problem(PackedProblem):
    """One product ``x @ W.T + bias``.

    Args:
        packed: the packed weight ``W``, ``(rows, columns)``.
        batch: rows of ``x``, the product of all its leading dimensions.
        threads: threads the kernel may use.
    """

    batch: int
    threads: int = 1

    @property
    def key(self) -> int:
        """The batch."""
        return self.batch

    @property
    def sentence(self) -> str:
        """Format, dtype, device and batch."""
        return f"multiplies {self.packed.name} in {self.dtype} on {self.device} with batch {self.batch}"


ProblemT = TypeVar("ProblemT", bound=PackedProblem)


@dataclass(frozen=True)
class Runs(Generic[ProblemT]):
    """What runs one format.

    Args:
        name: ``<format>_<op>_<backend>``, such as ``csr_mm_native``.
        format: the format it runs.
        refuses: the reason why it does not run a problem, or None.
    """

    name: str
    format: type[Format]
    refuses: Callable[[ProblemT], Refusal | None]


@dataclass(frozen=True)
class Kernel(Runs[Problem]):
    """Code that multiplies by one format.

    Args:
        bind: given a packed weight, returns ``multiply(x, bias) -> y`` for ``x`` ``(batch, columns)`` and ``bias``
            ``(rows,)`` or None, of the weight's dtype and device; ``x`` may have any strides. What the kernel
            derives from the weight (validation, reordering, pointers) is done once, in ``bind``, which keeps the
            packed tensors alive.
        activations: what the kernel can apply to its result on its own; ``bind`` takes the name of any but "none" as a
            second argument.
        adds_residual: whether what ``bind`` returns takes a third argument, a residual ``(batch, rows)`` of any strides
            or None, which it adds to the activated result.
    """

    bind: Callable[..., Multiply]
    activations: tuple[str, ...] = ("none",)
    adds_residual: bool = False

    def bind_with(self, packed: Format, activation: str) -> MultiplyAdd:
        """Bind a weight so that ``activation`` is applied to every result and a residual added to that.

        The kernel itself does so where it can.
        """
        own = activation in self.activations
        multiply: Any = self.bind(packed, activation) if own and activation != "none" else self.bind(packed)
        if own and self.adds_residual:
            return cast(MultiplyAdd, multiply)
        after = "none" if own else activation

        def finished(x: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
            y = activated(multiply(x, bias), after)
            return y if residual is None else y.add_(residual)

        return finished


@dataclass(frozen=True)
class Gradients:
    """The gradients of ``y = x @ W.T + bias`` for one packed weight, given that of ``y``, ``(batch, rows)``.

    Operands have the weight's dtype and device, any strides, and at least one row.

    Args:
        of_x: ``grad`` to the gradient of ``x``, ``(batch, columns)``.
        of_part: ``(grad, x, name)`` to the gradient of the packed tensor ``name``, in its shape; 0 where it stores
            padding. It reads the places of the kept weights and not their values.
    """

    of_x: Callable[[Tensor], Tensor]
    of_part: Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True)
class GradientKernel(Runs[Problem]):
    """Code that computes the gradients of a product by one format.

    Args:
        bind: given a packed weight and a dict, returns its :class:`Gradients`. What it derives from the places of the
            kept weights it may keep in the dict, which outlives a change of the values.
    """

    bind: Callable[[Format, dict[str, Tensor]], Gradients]


RunsT = TypeVar("RunsT", bound=Runs[Any])


def rows_contiguous(x: Tensor) -> Tensor:
    """Return the matrix ``x``, or a copy where its rows are not contiguous in memory as they are read."""
    return x.resolve_neg().contiguous() if x.stride(1) != 1 or x.is_neg() else x


def choose(problem: PackedProblem, kernels: Iterable[RunsT]) -> RunsT:
    """Return the first of ``kernels`` that runs the format of ``problem`` and does not refuse it.

    Raises:
        KernelError: every kernel refuses; the message lists each one's reason.
    """
    reasons = []
    for kernel in kernels:
        if type(problem.packed) is not kernel.format:
            continue
        refusal = kernel.refuses(problem)
        if refusal is None:
            return kernel
        reasons.append(f"{kernel.name}: {refusal}")
    why = "; ".join(reasons) or "none is registered for this format"
    raise KernelError(f"no kernel {problem.sentence}: {why}")
