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
from sparsekit.errors import FormatError, KernelError, LayerError
from sparsekit.formats import Format, format_named
from sparsekit.formats.base import FLOATING
from sparsekit.kernels.base import Kernel, Multiply, Problem
from sparsekit.kernels.binding import bound, select, version
from sparsekit.mask import Mask, read_mask
from sparsekit.nn.choice import by_measurement, by_rule, cannot_train
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
    output has it; elsewhere another dtype is an error. Input and bias get gradients, and in a trainable layer so do the
    kept weights: ``packed_values`` is a parameter that any optimizer can change, and the mask stays as it is.

    Args:
        packed: the weight ``(out, in)``.
        bias: ``(out,)`` or None.
        kernels: the kernels to choose from in eager inference, in the order of preference; None = sparsekit's own. In
            training and under torch.compile and torch.export sparsekit's own are used.
        kernel_by_batch: kernel name by batch size (the product of the leading dimensions), as a plan chose them; other
            batch sizes take the first kernel that does not refuse.
        trainable: whether the stored values are parameters. What the format stores is what is trained: the dense format
            stores every weight, zeros included. A change through ``.data``, which torch does not count, may go unseen.

    Raises:
        InputError: the bias does not fit the weight.
    """

    def __init__(
        self,
        packed: Format,
        bias: Tensor | None = None,
        kernels: Sequence[Kernel] | None = None,
        kernel_by_batch: Mapping[int, str] | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__(packed, bias, kernel_by_batch, trainable)
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
        trainable: bool = False,
    ) -> Self:
        """Make a layer of a packed weight; see the class."""
        return cls(packed, bias, kernels, kernel_by_batch, trainable)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        mask: Mask | Tensor | None = None,
        format: type[Format] | str | None = None,
        example: Tensor | None = None,
        trainable: bool = False,
    ) -> Self:
        """Pack the weight of ``linear``, which stays as it is.

        Args:
            linear: the layer to replace.
            mask: which weights stay; a bool tensor is an unstructured mask; None = read the zeros of the weight.
            format: a format or its name; None = choose by ``example``, or else by rule (see
                :func:`sparsekit.nn.choice.by_rule`).
            example: an input ``(..., in)`` of the size that counts; every format that stores the mask is timed on it,
                the product alone and not its gradients.
            trainable: whether the kept weights are parameters, ``packed_values``; the mask is then fixed, and a format
                that cannot tell a kept zero from a removed weight is none to choose. With Block masks every gradient
                costs what the kept weights cost; in the other formats the gradients are dense products.

        Raises:
            LayerError: the layer is no Linear, has no data (meta, lazy), or its weight is no floating tensor.
            MaskError: the mask does not belong to the weight.
            FormatError: the format is unknown, or cannot store the mask, or cannot train it.
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
            x = example.detach().reshape(batch, linear.in_features)
            packed, kernel = by_measurement(weight, mask, bias, x, trainable)
            kernels = {batch: kernel.name}
        else:
            chosen = by_rule(mask, trainable) if format is None else format
            family = format_named(chosen) if isinstance(chosen, str) else chosen
            packed, kernels = family.pack(weight, mask), {}
        if trainable and (reason := cannot_train(packed, mask)):
            raise FormatError(f"{packed.name}: cannot train {mask}: {reason}")
        layer = cls(packed, bias, kernel_by_batch=kernels, trainable=trainable).train(linear.training)
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
        try:
            values: Tensor = self._buffers[PREFIX + "values"]  # type: ignore[assignment]
        except KeyError:  # a trainable layer
            values = self._parameters[PREFIX + "values"]  # type: ignore[assignment]
        if torch.compiler.is_compiling() or not _is_plain(x) or _needs_gradient(x, bias, values):
            return self._through_operator(x, bias)
        ready = self._ready
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

    def to_dense(self) -> nn.Linear:
        """Return a dense layer of the same weight, bias and mode; the removed weights are zeros in it."""
        # on meta: nothing is drawn at random only to be written over
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        dense.weight = nn.Parameter(self.weight)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

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
        text += ", trainable=True" if self.trainable else ""
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


def _needs_gradient(x: Tensor, bias: Tensor | None, values: Tensor) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad) or values.requires_grad
    )


def _weight_of(linear: nn.Linear) -> Tensor:
    if not isinstance(linear, nn.Linear):
        raise LayerError(f"SparseLinear: expected a torch.nn.Linear, got {type(linear).__name__}")
    weight = linear.weight
    if isinstance(weight, UninitializedParameter) or weight.is_meta:
        raise LayerError("SparseLinear: expected a Linear with data, got one that is on the meta device or lazy")
    if weight.dtype not in FLOATING:
        raise LayerError(f"SparseLinear: expected a float64, float32, bfloat16 or float16 weight, got {weight.dtype}")
    return weight.detach()
