"""What a kernel is: code that runs one format on one device, and says in a sentence what it refuses.

A :class:`Kernel` multiplies, a :class:`GradientKernel` does what training needs besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sparsekit.errors import KernelError
from sparsekit.formats.base import Format, Refusal

Multiply = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Problem:
    """One product ``x @ W.T + bias``.

    Args:
        packed: the packed weight ``W``, ``(rows, columns)``.
        batch: rows of ``x``, the product of all its leading dimensions.
        threads: threads the kernel may use.
    """

    packed: Format
    batch: int
    threads: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weight, input and output."""
        return self.packed.values.dtype

    @property
    def device(self) -> torch.device:
        """The device of weight, input and output."""
        return self.packed.values.device


@dataclass(frozen=True)
class Runs:
    """What runs one format.

    Args:
        name: ``<format>_<op>_<backend>``, such as ``csr_mm_native``.
        format: the format it runs.
        refuses: the reason why it does not run a problem, or None.
    """

    name: str
    format: type[Format]
    refuses: Callable[[Problem], Refusal | None]


@dataclass(frozen=True)
class Kernel(Runs):
    """Code that multiplies by one format.

    Args:
        bind: given a packed weight, returns ``multiply(x, bias) -> y`` for ``x`` ``(batch, columns)`` and ``bias``
            ``(rows,)`` or None, of the weight's dtype and device; ``x`` may have any strides. What the kernel
            derives from the weight (validation, reordering, pointers) is done once, in ``bind``, which keeps the
            packed tensors alive.
    """

    bind: Callable[[Format], Multiply]


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
class GradientKernel(Runs):
    """Code that computes the gradients of a product by one format.

    Args:
        bind: given a packed weight and a dict, returns its :class:`Gradients`. What it derives from the places of the
            kept weights it may keep in the dict, which outlives a change of the values.
    """

    bind: Callable[[Format, dict[str, Tensor]], Gradients]


RunsT = TypeVar("RunsT", bound=Runs)


def choose(problem: Problem, kernels: Iterable[RunsT]) -> RunsT:
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
    raise KernelError(
        f"no kernel multiplies {problem.packed.name} in {problem.dtype} on {problem.device} with batch "
        f"{problem.batch}: " + ("; ".join(reasons) or "none is registered for this format")
    )
