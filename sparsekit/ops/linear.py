"""The product as an operator.

``sparsekit::linear(x, bias, parts, integers, format, kernels)`` multiplies by a packed weight, given as the tensors and
integers of a format in the order of its fields. ``kernels`` may name a kernel for some batch sizes, as in
``"1=csr_mv_native 128=csr_mm_native"``, or be empty; elsewhere the first kernel that does not refuse runs.

``sparsekit::linear_finished`` applies an activation besides and adds a residual, while the result is in the caches. It
has no gradients, and layers call it where none is needed.

Input, bias and the floating parts of the product get gradients of any order: ``sparsekit::linear_grad_x`` multiplies by
the weight itself, ``sparsekit::linear_grad_part`` multiplies two dense matrices at the stored weights only, and the
derivatives of the three are calls of the three. All compute in the weight's dtype, under autocast as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.errors import KernelError
from sparsekit.formats import Format, format_named
from sparsekit.kernels.binding import bound
from sparsekit.ops.checks import check_operands, check_residual
from sparsekit.ops.names import REMEMBERED, kernel_names, names_by_size

torch.library.define(
    "sparsekit::linear",
    "(Tensor x, Tensor? bias, Tensor[] parts, int[] integers, str format, str kernels) -> Tensor",
)
torch.library.define(
    "sparsekit::linear_finished",
    "(Tensor x, Tensor? bias, Tensor? residual, Tensor[] parts, int[] integers, str format, str kernels, "
    "str activation) -> Tensor",
)
torch.library.define("sparsekit::linear_grad_x", "(Tensor grad, Tensor[] parts, int[] integers, str format) -> Tensor")
torch.library.define(
    "sparsekit::linear_grad_part",
    "(Tensor grad, Tensor x, Tensor[] parts, int[] integers, str format, int part) -> Tensor",
)


def linear(x: Tensor, packed: Format, bias: Tensor | None = None, kernels: Mapping[int, str] | None = None) -> Tensor:
    """Return ``x @ packed.unpack().T + bias`` through the registered operator.

    Args:
        x: ``(*lead, columns)`` of the weight's dtype and device.
        packed: the weight, ``(rows, columns)``.
        bias: ``(rows,)`` or None.
        kernels: kernel name by batch size, for the batch sizes that have a preferred one.

    Returns:
        ``(*lead, rows)``.

    Raises:
        InputError: ``x`` or ``bias`` does not fit the weight.
        KernelError: no kernel runs the problem.
    """
    parts, integers = list(packed.tensors().values()), list(packed.integers().values())
    return call_linear(x, bias, parts, integers, (packed.name, kernel_names(kernels or {})))


def call_linear(
    x: Tensor, bias: Tensor | None, parts: list[Tensor], integers: list[int], names: tuple[str, str]
) -> Tensor:
    """Call the operator; ``names`` is the format's name and the kernels string."""
    y: Tensor = torch.ops.sparsekit.linear.default(x, bias, parts, integers, *names)
    return y


def call_finished(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    parts: list[Tensor],
    integers: list[int],
    names: tuple[str, str, str],
) -> Tensor:
    """Call the operator without gradients; ``names`` is the format's name, the kernels string and the activation."""
    y: Tensor = torch.ops.sparsekit.linear_finished.default(x, bias, residual, parts, integers, *names)
    return y


def _linear(
    x: Tensor, bias: Tensor | None, parts: Sequence[Tensor], integers: Sequence[int], format: str, kernels: str
) -> Tensor:
    return _finished(x, bias, None, parts, integers, format, kernels, "none")


def _finished(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    parts: Sequence[Tensor],
    integers: Sequence[int],
    *names: str,
) -> Tensor:
    """Run the operator; ``names`` is the format's name, the kernels string and the activation."""
    format, kernels, activation = names
    rows, columns = integers[:2]
    typed = parts[_typed_by(format)]
    check_operands(x, bias, typed, (rows, columns), "sparsekit::linear")
    if residual is not None:
        check_residual(residual, x, typed, rows, "sparsekit::linear")
    lead = x.shape[:-1]
    batch = math.prod(lead)
    if batch == 0:
        return x.new_empty(*lead, rows)
    weight = bound(format, parts, integers)
    key = (batch, torch.get_num_threads(), kernels, activation)
    multiply = weight.chosen.get(key)
    if multiply is None:
        multiply = weight.multiply(batch, names_by_size(kernels), sparsekit.kernels.KERNELS, activation)
        if len(weight.chosen) < REMEMBERED:
            weight.chosen[key] = multiply
    if residual is not None:
        return multiply(x.reshape(batch, columns), bias, residual.reshape(batch, rows)).reshape(*lead, rows)
    if x.dim() == 2:
        return multiply(x, bias)
    return multiply(x.reshape(batch, columns), bias).reshape(*lead, rows)


def _linear_fake(
    x: Tensor, bias: Tensor | None, parts: Sequence[Tensor], integers: Sequence[int], format: str, kernels: str
) -> Tensor:
    check_operands(x, bias, parts[_typed_by(format)], (integers[0], integers[1]), "sparsekit::linear")
    return x.new_empty(*x.shape[:-1], integers[0])


@lru_cache
def _typed_by(format: str) -> int:
    """Which part of a format has its dtype."""
    family = format_named(format)
    return family.tensor_names().index(family.typed_by)


def _finished_fake(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    parts: Sequence[Tensor],
    integers: Sequence[int],
    *names: str,
) -> Tensor:
    format, kernels, _ = names
    if residual is not None:
        check_residual(residual, x, parts[_typed_by(format)], integers[0], "sparsekit::linear")
    return _linear_fake(x, bias, parts, integers, format, kernels)


def _finished_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save nothing: there is no gradient."""


def _finished_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    raise KernelError("sparsekit::linear_finished has no gradient: call sparsekit::linear, activate and add")


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, parts, ctx.integers, ctx.format, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(_if_trained(x, parts), *parts)


def _if_trained(x: Tensor, parts: Sequence[Tensor]) -> Tensor | None:
    """Return ``x``, which only the gradients of the parts need, or None where nothing asks for them."""
    return x if any(part.requires_grad for part in parts) else None


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *parts = ctx.saved_tensors
    needs_x, needs_bias, needs_parts = ctx.needs_input_grad[:3]
    grad_x = grad_bias = None
    if needs_x:
        grad_x = torch.ops.sparsekit.linear_grad_x.default(grad, parts, ctx.integers, ctx.format)
    if ctx.has_bias and needs_bias:
        grad_bias = grad.reshape(math.prod(grad.shape[:-1]), grad.shape[-1]).sum(dim=0)
    return grad_x, grad_bias, _grad_parts(ctx, needs_parts, grad, x, parts), None, None, None


def _grad_parts(ctx: Any, needs: Sequence[bool], grad: Tensor, x: Tensor, parts: list[Tensor]) -> list[Tensor | None]:
    call = torch.ops.sparsekit.linear_grad_part.default
    return [call(grad, x, parts, ctx.integers, ctx.format, i) if need else None for i, need in enumerate(needs)]


def _grad_x(grad: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str) -> Tensor:
    lead = grad.shape[:-1]
    batch = math.prod(lead)
    if batch == 0:
        return grad.new_empty(*lead, integers[1])
    gradients = bound(format, parts, integers).gradients(batch, sparsekit.kernels.GRADIENT_KERNELS)
    return gradients.of_x(grad.reshape(batch, grad.shape[-1])).reshape(*lead, integers[1])


def _grad_x_fake(grad: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str) -> Tensor:
    return grad.new_empty(*grad.shape[:-1], integers[1])


def _grad_x_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, parts, ctx.integers, ctx.format = inputs
    ctx.save_for_backward(_if_trained(grad, parts), *parts)


def _grad_x_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    """The derivative of ``grad @ W``: a product with ``W.T``, and at the stored weights ``grad.T @ grad_out``."""
    grad, *parts = ctx.saved_tensors
    y = torch.ops.sparsekit.linear.default(grad_out, None, parts, ctx.integers, ctx.format, "")
    return y, _grad_parts(ctx, ctx.needs_input_grad[1], grad, grad_out, parts), None, None


def _grad_part(
    grad: Tensor, x: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str, part: int
) -> Tensor:
    batch = math.prod(grad.shape[:-1])
    if batch == 0:
        return torch.zeros_like(parts[part], memory_format=torch.contiguous_format)
    weight = bound(format, parts, integers)
    gradients = weight.gradients(batch, sparsekit.kernels.GRADIENT_KERNELS)
    name = weight.packed.tensor_names()[part]
    return gradients.of_part(grad.reshape(batch, grad.shape[-1]), x.reshape(batch, x.shape[-1]), name)


def _grad_part_fake(
    grad: Tensor, x: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str, part: int
) -> Tensor:
    return torch.empty_like(parts[part], memory_format=torch.contiguous_format)


def _grad_part_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, parts, ctx.integers, ctx.format, ctx.part = inputs
    ctx.save_for_backward(grad, x, *parts)


def _grad_part_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    """The derivative of the sampled ``grad.T @ x``: products with a weight that stores ``grad_out``."""
    grad, x, *parts = ctx.saved_tensors
    stored = [torch.zeros_like(part) if part.is_floating_point() else part for part in parts]
    stored[ctx.part] = grad_out
    of_grad = torch.ops.sparsekit.linear.default(x, None, stored, ctx.integers, ctx.format, "")
    of_x = torch.ops.sparsekit.linear_grad_x.default(grad, stored, ctx.integers, ctx.format)
    return of_grad, of_x, [None] * len(parts), None, None, None


for _name, _run, _fake, _backward, _context in (
    ("sparsekit::linear", _linear, _linear_fake, _linear_backward, _linear_context),
    ("sparsekit::linear_finished", _finished, _finished_fake, _finished_backward, _finished_context),
    ("sparsekit::linear_grad_x", _grad_x, _grad_x_fake, _grad_x_backward, _grad_x_context),
    ("sparsekit::linear_grad_part", _grad_part, _grad_part_fake, _grad_part_backward, _grad_part_context),
):
    torch.library.impl(_name, "default", _run)
    torch.library.register_fake(_name, _fake)
    torch.library.register_autograd(_name, _backward, setup_context=_context)
