"""The convolution as an operator.

``sparsekit::conv2d(x, bias, parts, integers, format, convolution, kernels)`` convolves with a packed weight, given as
the tensors and integers of a format in the order of its fields. ``convolution`` is a
:class:`~sparsekit.kernels.convolution.Convolution` as text. ``kernels`` may name a kernel for some input sizes, as in
``"1x56x56=csr_conv_native"``, or be empty; elsewhere the first kernel that does not refuse runs.

Input, bias and the floating parts get gradients of any order: ``sparsekit::conv2d_grad_x`` and
``sparsekit::conv2d_grad_part`` are the gradients of the input and of one part, both computed densely, and the
derivatives of the three are calls of the three. The activation's derivative is taken at its argument, which is computed
again. All compute in the weight's dtype, under autocast as well. The result lies in the memory order of the input, NCHW
or channels_last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.formats import Format, gather, positions
from sparsekit.kernels.binding import bound
from sparsekit.kernels.conv_reference import gradient_of_images, gradient_of_weight
from sparsekit.kernels.convolution import Convolution, Size, in_order_of, memory_format_of
from sparsekit.ops.checks import check_images
from sparsekit.ops.names import REMEMBERED, kernel_names, names_by_size

torch.library.define(
    "sparsekit::conv2d",
    "(Tensor x, Tensor? bias, Tensor[] parts, int[] integers, str format, str convolution, str kernels) -> Tensor",
)
torch.library.define(
    "sparsekit::conv2d_grad_x",
    "(Tensor grad, Tensor[] parts, int[] integers, str format, str convolution, SymInt[] size) -> Tensor",
)
torch.library.define(
    "sparsekit::conv2d_grad_part",
    "(Tensor grad, Tensor x, Tensor[] parts, int[] integers, str format, str convolution, int part) -> Tensor",
)


def conv2d(
    x: Tensor,
    packed: Format,
    convolution: Convolution,
    bias: Tensor | None = None,
    kernels: Mapping[Size, str] | None = None,
) -> Tensor:
    """Return the convolution of ``x`` with a packed weight, plus ``bias``, activated, through the registered operator.

    Args:
        x: ``(N, C, H, W)`` of the weight's dtype and device.
        packed: the weight, ``(out, C / groups * kh * kw)``.
        convolution: stride, padding and what else is done.
        bias: ``(out,)`` or None.
        kernels: kernel name by input size ``(N, H, W)``, for the sizes that have a preferred one.

    Returns:
        ``(N, out, H', W')`` in the memory order of ``x``.

    Raises:
        LayerError: the weight does not belong to the convolution.
        InputError: ``x`` or ``bias`` does not fit.
        KernelError: no kernel runs the problem.
    """
    parts, integers = list(packed.tensors().values()), list(packed.integers().values())
    return call_conv2d(x, bias, parts, integers, (packed.name, convolution.text, kernel_names(kernels or {})))


def call_conv2d(
    x: Tensor, bias: Tensor | None, parts: list[Tensor], integers: list[int], names: tuple[str, str, str]
) -> Tensor:
    """Call the operator; ``names`` is the format's name, the convolution's text and the kernels string."""
    y: Tensor = torch.ops.sparsekit.conv2d.default(x, bias, parts, integers, *names)
    return y


def _check(x: Tensor, bias: Tensor | None, parts: Sequence[Tensor], integers: Sequence[int], text: str) -> Convolution:
    convolution = Convolution.from_text(text)
    convolution.check_weight(integers[0], integers[1], "sparsekit::conv2d")
    check_images(x, bias, parts[0], (convolution, integers[0]), "sparsekit::conv2d")
    return convolution


def _conv2d(x: Tensor, bias: Tensor | None, parts: Sequence[Tensor], integers: Sequence[int], *names: str) -> Tensor:
    format, convolution, kernels = names
    checked = _check(x, bias, parts, integers, convolution)
    size = (x.shape[0], x.shape[2], x.shape[3])
    if size[0] == 0 or integers[0] == 0:
        return _empty_result(x, integers[0], checked)
    weight = bound(format, parts, integers)
    key = (size, torch.get_num_threads(), convolution, kernels)
    run = weight.chosen.get(key)
    if run is None:
        run = weight.convolve(checked, size, names_by_size(kernels), sparsekit.kernels.CONV_KERNELS)
        if len(weight.chosen) < REMEMBERED:
            weight.chosen[key] = run
    return in_order_of(x, run(x, bias))


def _conv2d_fake(
    x: Tensor, bias: Tensor | None, parts: Sequence[Tensor], integers: Sequence[int], *names: str
) -> Tensor:
    return _empty_result(x, integers[0], _check(x, bias, parts, integers, names[1]))


def _empty_result(x: Tensor, rows: int, convolution: Convolution) -> Tensor:
    shape = (x.shape[0], rows, *convolution.output_size(x.shape[2], x.shape[3]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def _conv2d_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, parts, ctx.integers, ctx.format, ctx.convolution, _ = inputs
    ctx.has_bias, ctx.size = bias is not None, (x.shape[0], x.shape[2], x.shape[3])
    activated = Convolution.from_text(ctx.convolution).activation != "none"
    x = x if activated or any(part.requires_grad for part in parts) else None
    ctx.save_for_backward(x, bias if activated else None, *parts)


def _conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, bias, *parts = ctx.saved_tensors
    needs_x, needs_bias, needs_parts = ctx.needs_input_grad[:3]
    grad_x = grad_bias = None
    convolution = Convolution.from_text(ctx.convolution)
    linear = replace(convolution, activation="none").text
    if convolution.activation != "none":
        before = call_conv2d(x, bias, parts, ctx.integers, (ctx.format, linear, ""))
        grad = grad * _slope(before, convolution.activation)
    if needs_x:
        grad_x = torch.ops.sparsekit.conv2d_grad_x.default(grad, parts, ctx.integers, ctx.format, linear, ctx.size)
    if ctx.has_bias and needs_bias:
        grad_bias = grad.sum(dim=(0, 2, 3))
    operands = (grad, x, parts, ctx.integers, ctx.format, linear)
    return grad_x, grad_bias, _grad_parts(needs_parts, operands), None, None, None, None


def _slope(x: Tensor, activation: str) -> Tensor:
    """The derivative of the activation at ``x``; that of ReLU is 0 at 0, as in torch."""
    if activation == "relu":
        return (x > 0).to(x.dtype)
    sigmoid = x.sigmoid()
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


def _grad_parts(needs: Sequence[bool], operands: tuple[Any, ...]) -> list[Tensor | None]:
    call = torch.ops.sparsekit.conv2d_grad_part.default
    return [call(*operands, part) if need else None for part, need in enumerate(needs)]


def _grad_x(
    grad: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str, convolution: str, size: Sequence[int]
) -> Tensor:
    checked = Convolution.from_text(convolution)
    shape = (size[0], checked.in_channels, size[1], size[2])
    if size[0] == 0:
        return _grad_x_fake(grad, parts, integers, format, convolution, size)
    packed = bound(format, parts, integers).packed
    return in_order_of(grad, gradient_of_images(packed, checked, grad, shape))


def _grad_x_fake(
    grad: Tensor, parts: Sequence[Tensor], integers: Sequence[int], format: str, convolution: str, size: Sequence[int]
) -> Tensor:
    shape = (size[0], Convolution.from_text(convolution).in_channels, size[1], size[2])
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=memory_format_of(grad))


def _grad_x_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, parts, ctx.integers, ctx.format, ctx.convolution, _ = inputs
    ctx.save_for_backward(grad if any(part.requires_grad for part in parts) else None, *parts)


def _grad_x_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    """The derivative with respect to ``grad`` is a convolution; at the stored weights it is that of the weight."""
    grad, *parts = ctx.saved_tensors
    y = call_conv2d(grad_out, None, parts, ctx.integers, (ctx.format, ctx.convolution, ""))
    operands = (grad, grad_out, parts, ctx.integers, ctx.format, ctx.convolution)
    return y, _grad_parts(ctx.needs_input_grad[1], operands), None, None, None, None


def _grad_part(grad: Tensor, x: Tensor, parts: Sequence[Tensor], integers: Sequence[int], *rest: Any) -> Tensor:
    format, convolution, part = rest
    if x.shape[0] == 0:
        return torch.zeros_like(parts[part], memory_format=torch.contiguous_format)
    weight = bound(format, parts, integers)
    if not weight.places:
        weight.places.update(positions(weight.packed))
    dense = gradient_of_weight(Convolution.from_text(convolution), grad, x)
    return gather(dense, weight.places[weight.packed.tensor_names()[part]])


def _grad_part_fake(grad: Tensor, x: Tensor, parts: Sequence[Tensor], integers: Sequence[int], *rest: Any) -> Tensor:
    return torch.empty_like(parts[rest[2]], memory_format=torch.contiguous_format)


def _grad_part_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, parts, ctx.integers, ctx.format, ctx.convolution, ctx.part = inputs
    ctx.save_for_backward(grad, x, *parts)


def _grad_part_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    """The derivatives of what is linear in ``grad`` and in ``x``: with a weight that stores ``grad_out``."""
    grad, x, *parts = ctx.saved_tensors
    stored = [torch.zeros_like(part) if part.is_floating_point() else part for part in parts]
    stored[ctx.part] = grad_out
    rest = (ctx.integers, ctx.format, ctx.convolution)
    of_grad = call_conv2d(x, None, stored, ctx.integers, (ctx.format, ctx.convolution, ""))
    of_x = torch.ops.sparsekit.conv2d_grad_x.default(grad, stored, *rest, (x.shape[0], x.shape[2], x.shape[3]))
    return of_grad, of_x, [None] * len(parts), None, None, None, None


for _name, _run, _fake, _backward, _context in (
    ("sparsekit::conv2d", _conv2d, _conv2d_fake, _conv2d_backward, _conv2d_context),
    ("sparsekit::conv2d_grad_x", _grad_x, _grad_x_fake, _grad_x_backward, _grad_x_context),
    ("sparsekit::conv2d_grad_part", _grad_part, _grad_part_fake, _grad_part_backward, _grad_part_context),
):
    torch.library.impl(_name, "default", _run)
    torch.library.register_fake(_name, _fake)
    torch.library.register_autograd(_name, _backward, setup_context=_context)
