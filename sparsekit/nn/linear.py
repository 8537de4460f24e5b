"""A linear layer with a packed weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from typing_extensions import Self

import sparsekit.kernels
from sparsekit.errors import KernelError, LayerError
from sparsekit.formats import Format, format_named
from sparsekit.formats.base import FLOATING
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.binding import bound, select, version
from sparsekit.mask import Mask, read_mask
from sparsekit.nn.choice import by_measurement, by_rule
from sparsekit.nn.packed import PREFIX, PackedLayer, sparsity_of
from sparsekit.ops import REMEMBERED, call_linear, check_bias, check_operands, kernel_names
from sparsekit.patterns import Unstructured


@dataclass(frozen=True)
class _Ready:
    """What a call needs, valid while the values tensor, its version and the number of threads stay the same."""

    values: Tensor
    version: int
    threads: int
    dtype: torch.dtype
    device: torch.device
    multiplies: dict[int, Multiply] = field(default_factory=dict)


class SparseLinear(PackedLayer):
    """``y = x @ weight.T + bias`` with the weight in a packed format.

    It takes what :class:`torch.nn.Linear` takes: any leading dimensions, an empty batch, any strides. The product is
    computed in the weight's dtype. Under autocast an input of another floating dtype is cast to that dtype, and the
    output has it; elsewhere another dtype is an error. Input and bias get gradients, the packed weight none.

    Args:
        packed: the weight ``(out, in)``.
        bias: ``(out,)`` or None.
        kernels: the kernels to choose from in eager inference, in the order of preference; None = sparsekit's own. In
            training and under torch.compile and torch.export sparsekit's own are used.
        kernel_by_batch: kernel name by batch size (the product of the leading dimensions), as a plan chose them; other
            batch sizes take the first kernel that does not refuse.

    Raises:
        InputError: the bias does not fit the weight.
    """

    def __init__(
        self,
        packed: Format,
        bias: Tensor | None = None,
        kernels: Sequence[Kernel] | None = None,
        kernel_by_batch: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(packed, bias, kernel_by_batch)
        self.in_features, self.out_features = packed.columns, packed.rows
        self.kernels = None if kernels is None else tuple(kernels)
        if bias is not None:
            check_bias(bias, packed.values, packed.rows, "SparseLinear")

    @classmethod
    def from_packed(
        cls,
        packed: Format,
        bias: Tensor | None = None,
        kernels: Sequence[Kernel] | None = None,
        kernel_by_batch: Mapping[int, str] | None = None,
    ) -> Self:
        """Make a layer of a packed weight; see the class."""
        return cls(packed, bias, kernels, kernel_by_batch)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        mask: Mask | Tensor | None = None,
        format: type[Format] | str | None = None,
        example: Tensor | None = None,
    ) -> Self:
        """Pack the weight of ``linear``, which stays as it is.

        Args:
            linear: the layer to replace.
            mask: which weights stay; a bool tensor is an unstructured mask; None = read the zeros of the weight.
            format: a format or its name; None = choose by ``example``, or else by rule (see
                :func:`sparsekit.nn.choice.by_rule`).
            example: an input ``(..., in)`` of the size that counts; every format that stores the mask is timed on it.

        Raises:
            LayerError: the layer is no Linear, has no data (meta, lazy), or its weight is no floating tensor.
            MaskError: the mask does not belong to the weight.
            FormatError: the format is unknown or cannot store the mask.
            InputError: the example does not fit the layer.
        """
        weight = _weight_of(linear)
        if mask is None:
            mask = read_mask(weight)
        elif isinstance(mask, Tensor):
            mask = Mask(mask, Unstructured())
        mask.check(weight, "weight")
        bias = None if linear.bias is None else linear.bias.detach().clone()
        if format is None and example is not None:
            check_operands(example, bias, weight, (linear.out_features, linear.in_features), "example")
            batch = math.prod(example.shape[:-1])
            packed, kernel = by_measurement(weight, mask, bias, example.detach().reshape(batch, linear.in_features))
            kernels = {batch: kernel.name}
        else:
            family = by_rule(mask) if format is None else format_named(format) if isinstance(format, str) else format
            packed, kernels = family.pack(weight, mask), {}
        layer = cls(packed, bias, kernel_by_batch=kernels).train(linear.training)
        if layer.bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias`` for ``input`` ``(..., in_features)``.

        Raises:
            InputError: the input has another dtype, device or last dimension than the layer.
            KernelError: no kernel runs the problem.
        """
        x, bias = input, self.bias
        if torch.compiler.is_compiling() or not _is_plain(x) or _needs_gradient(x, bias):
            return self._through_operator(x, bias)
        ready = self._ready
        values: Tensor = self._buffers[PREFIX + "values"]  # type: ignore[assignment]
        if (
            ready is None
            or ready.values is not values
            or ready.version != version(values)
            or ready.threads != torch.get_num_threads()
        ):
            ready = self._get_ready(values)
        shape = x.shape
        if (
            not shape
            or shape[-1] != self.in_features
            or x.dtype is not ready.dtype
            or x.device != ready.device
            or (bias is not None and bias.dtype is not ready.dtype)
        ):
            x = self._checked(x, bias)
        flat = len(shape) == 2
        batch = shape[0] if flat else math.prod(shape[:-1])
        if batch == 0:
            return x.new_empty(*shape[:-1], self.out_features)
        multiply = ready.multiplies.get(batch) or self._get_multiply(batch, ready)
        if flat:
            return multiply(x, bias)
        return multiply(x.reshape(batch, shape[-1]), bias).reshape(*shape[:-1], self.out_features)

    def _through_operator(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = self._checked(x, bias)
        parts = [getattr(self, name) for name in self._part_names]
        names = (self.format.name, kernel_names(self.kernel_by_batch))
        return call_linear(x, bias, parts, list(self._integer_values), names)

    def _checked(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x``, under autocast in the weight's dtype; raise :class:`InputError` where it does not fit."""
        values: Tensor = getattr(self, PREFIX + "values")
        if x.dtype != values.dtype and x.is_floating_point() and torch.is_autocast_enabled(x.device.type):
            x = x.to(values.dtype)
        check_operands(x, bias, values, (self.out_features, self.in_features), self.label)
        return x

    def _get_ready(self, values: Tensor) -> _Ready:
        if values.is_meta:
            raise LayerError(f"{self.label}: expected a weight with data, got one on the meta device")
        if self.bias is not None:
            check_bias(self.bias, values, self.out_features, self.label)
        ready = _Ready(values, version(values), torch.get_num_threads(), values.dtype, values.device)
        self._ready = ready
        return ready

    def _get_multiply(self, batch: int, ready: _Ready) -> Multiply:
        packed = self.packed
        weight = bound(packed.name, list(packed.tensors().values()), self._integer_values)
        multiply = weight.multiply(batch, self.kernel_by_batch, self._own_kernels())
        if len(ready.multiplies) < REMEMBERED:
            ready.multiplies[batch] = multiply
        return multiply

    def _own_kernels(self) -> tuple[Kernel, ...]:
        return sparsekit.kernels.KERNELS if self.kernels is None else self.kernels

    def extra_repr(self) -> str:
        """Return sizes, sparsity, format and kernel."""
        packed = self.packed
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        if not packed.values.is_meta:
            text += f", sparsity={sparsity_of(packed.tensors().values(), packed.rows * packed.columns):.4f}"
        planned = [f"{name} at batch {batch}" for batch, name in self.kernel_by_batch.items()]
        return f"{text}, format={packed.name}, kernel={', '.join(planned) or self._usual_kernel(packed)}"

    def _usual_kernel(self, packed: Format) -> str:
        try:
            return select(Problem(packed, 1, torch.get_num_threads()), {}, self._own_kernels()).name
        except KernelError:
            return "none"


def _is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor that nothing traces: then a kernel may be called directly."""
    return type(x) is Tensor and not torch._C._len_torch_dispatch_stack()


def _needs_gradient(x: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _weight_of(linear: nn.Linear) -> Tensor:
    if not isinstance(linear, nn.Linear):
        raise LayerError(f"SparseLinear: expected a torch.nn.Linear, got {type(linear).__name__}")
    weight = linear.weight
    if isinstance(weight, UninitializedParameter) or weight.is_meta:
        raise LayerError("SparseLinear: expected a Linear with data, got one that is on the meta device or lazy")
    if weight.dtype not in FLOATING:
        raise LayerError(f"SparseLinear: expected a float64, float32, bfloat16 or float16 weight, got {weight.dtype}")
    return weight.detach()
