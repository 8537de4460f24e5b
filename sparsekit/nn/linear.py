"""A linear layer with a packed weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

import sparsekit.kernels
from sparsekit.errors import FormatError, LayerError
from sparsekit.formats import Format
from sparsekit.kernels.activation import ACTIVATIONS, APPLY
from sparsekit.kernels.base import Kernel, MultiplyAdd, Problem
from sparsekit.kernels.binding import Bound, version
from sparsekit.kernels.candidates import candidates
from sparsekit.mask import Mask
from sparsekit.nn.activation import module_of
from sparsekit.nn.choice import by_measurement, by_rule, pack_as
from sparsekit.nn.dense import bias_of, mask_of, weight_of
from sparsekit.nn.packed import PREFIX, PackedLayer, expect_alike
from sparsekit.nn.ready import Ready, is_plain, needs_gradient
from sparsekit.ops import call_finished, call_linear, check_bias, check_operands, check_residual, kernel_names


class SparseLinear(PackedLayer):
    """``y = x @ weight.T + bias`` with the weight in a packed format, and an activation after it.

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
        activation: what is applied to the result: "none", "relu", "silu", "gelu" or "gelu_tanh".

    Raises:
        InputError: the bias does not fit the weight.
        LayerError: the activation is unknown.
    """

    kind = "linear"
    takes_quantized = True
    dense_class = nn.Linear

    def __init__(
        self,
        packed: Format,
        bias: Tensor | None = None,
        kernels: Sequence[Kernel] | None = None,
        kernel_by_batch: Mapping[int, str] | None = None,
        trainable: bool = False,
        activation: str = "none",
    ) -> None:
        super().__init__(packed, bias, kernels, trainable)
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise LayerError(f"SparseLinear: expected an activation of {known}, got {activation!r}")
        self.kernel_by_batch, self.activation = dict(kernel_by_batch or {}), activation
        self.in_features, self.out_features = packed.columns, packed.rows
        if bias is not None:
            check_bias(bias, packed.typed, packed.rows, "SparseLinear")

    @classmethod
    def from_packed(
        cls,
        packed: Format,
        bias: Tensor | None = None,
        kernels: Sequence[Kernel] | None = None,
        kernel_by_batch: Mapping[int, str] | None = None,
        trainable: bool = False,
        activation: str = "none",
    ) -> Self:
        """Make a layer of a packed weight; see the class."""
        return cls(packed, bias, kernels, kernel_by_batch, trainable, activation)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        mask: Mask | Tensor | None = None,
        format: type[Format] | str | None = None,
        example: Tensor | None = None,
        trainable: bool = False,
        activation: str = "none",
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
            activation: what follows the layer and is done by it.

        Raises:
            LayerError: the layer is no Linear, has no data (meta, lazy), or its weight is no floating tensor.
            MaskError: the mask does not belong to the weight.
            FormatError: the format is unknown, or cannot store the mask, or cannot train it.
            InputError: the example does not fit the layer.
        """
        weight = weight_of(linear, nn.Linear, cls.__name__)
        mask, bias = mask_of(weight, mask), bias_of(linear)
        kernels: dict[int, str] = {}
        if format is None and example is not None:
            check_operands(example, bias, weight, (linear.out_features, linear.in_features), "example")
            batch = math.prod(example.shape[:-1])
            x = example.detach().reshape(batch, linear.in_features)
            ways = candidates(weight, mask, batch)
            packed, kernel = by_measurement(
                ways, lambda way, stored: partial(way.bind_with(stored, activation), x, bias), mask, trainable
            )
            kernels[batch] = kernel.name
        else:
            packed = pack_as(by_rule(mask, trainable) if format is None else format, weight, mask, trainable)
        new = cls(packed, bias, kernel_by_batch=kernels, trainable=trainable, activation=activation)
        return new.train(linear.training)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``input @ weight.T + bias``, activated, for ``input`` ``(..., in_features)``.

        Args:
            input: of the layer's dtype and device.
            residual: ``(..., out_features)`` of the same, is added to the activated result; nothing is broadcast.

        Raises:
            InputError: the input or the residual has another dtype, device or shape than the layer takes.
            KernelError: no kernel runs the problem.
        """
        x, bias = input, self.bias
        try:
            values: Tensor = self._buffers[PREFIX + "values"]  # type: ignore[assignment]
        except KeyError:  # a trainable layer
            values = self._parameters[PREFIX + "values"]  # type: ignore[assignment]
        if torch.compiler.is_compiling() or not is_plain(x) or needs_gradient(x, bias, values):
            return self._through_operator(x, bias, residual)
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
            or (bias is not None and not ready.takes(bias))
        ):
            x = self._checked(x, bias)
        if residual is not None:
            return self._with_residual(x, bias, residual, ready)
        flat = len(shape) == 2
        batch = shape[0] if flat else math.prod(shape[:-1])
        if batch == 0:
            return x.new_empty(*shape[:-1], self.out_features)
        multiply = ready.runs.get(batch) or self._get_run(batch, ready)
        if flat:
            return multiply(x, bias)
        return multiply(x.reshape(batch, shape[-1]), bias).reshape(*shape[:-1], self.out_features)

    def to_dense(self) -> nn.Linear | nn.Sequential:
        """Return a dense layer of the same weight, bias and mode, followed by the activation where there is one."""
        # on meta: nothing is drawn at random only to be written over
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        dense.weight = nn.Parameter(self.weight)
        dense.register_parameter("bias", bias_of(self))
        after = module_of(self.activation)
        return (nn.Sequential(dense, after) if after else dense).train(self.training)

    def _with_residual(self, x: Tensor, bias: Tensor | None, residual: Tensor, ready: Ready) -> Tensor:
        """Call the kernel directly with a checked ``x``, and add ``residual``."""
        residual = self._checked_residual(x, residual)
        if not is_plain(residual) or (torch.is_grad_enabled() and residual.requires_grad):
            return self._through_operator(x, bias, residual)
        shape = residual.shape
        batch = math.prod(shape[:-1])
        if batch == 0:
            return x.new_empty(shape)
        multiply = ready.runs.get(batch) or self._get_run(batch, ready)
        y = multiply(x.reshape(batch, self.in_features), bias, residual.reshape(batch, self.out_features))
        return y.reshape(shape)

    def _through_operator(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        x = self._checked(x, bias)
        if residual is not None:
            residual = self._checked_residual(x, residual)
        parts, integers = [getattr(self, name) for name in self._part_names], list(self._integer_values)
        names = (self.format.name, kernel_names(self.kernel_by_batch))
        grad = torch.is_grad_enabled() and residual is not None and residual.requires_grad
        if (self.activation == "none" and residual is None) or grad or needs_gradient(x, bias, parts[0]):
            y = APPLY[self.activation](call_linear(x, bias, parts, integers, names))
            return y if residual is None else y + residual
        return call_finished(x, bias, residual, parts, integers, (*names, self.activation))

    def _checked_residual(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return ``residual``, under autocast in the dtype of ``x``, which is the weight's.

        Raises:
            InputError: it does not fit the result.
        """
        if residual.dtype != x.dtype and residual.is_floating_point() and torch.is_autocast_enabled(x.device.type):
            residual = residual.to(x.dtype)
        check_residual(residual, x, x, self.out_features, self.label)
        return residual

    def _check_input(self, x: Tensor, bias: Tensor | None, values: Tensor) -> None:
        check_operands(x, bias, values, (self.out_features, self.in_features), self.label)

    def _bind(self, weight: Bound, key: Any) -> MultiplyAdd:
        return weight.multiply(key, self.kernel_by_batch, self._own_kernels(), self.activation)

    def _own_kernels(self) -> tuple[Kernel, ...]:
        return sparsekit.kernels.KERNELS if self.kernels is None else self.kernels

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the buffers do not hold: format, integers, kernels, activation."""
        own = {"kernel_by_batch": dict(self.kernel_by_batch), "activation": self.activation}
        return {**super().get_extra_state(), **own}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` returned; the buffers have already been made to fit."""
        self.kernel_by_batch = dict(state["kernel_by_batch"])

    def _make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        extra = state_dict.get(prefix + "_extra_state", {})
        activation = extra.setdefault("activation", "none")
        if activation != self.activation:
            raise FormatError(f"expected the activation {self.activation}, got {activation}")
        super()._make_room(state_dict, prefix)

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint has to know beside the tensors, as JSON types."""
        return {**super().describe(), "in_features": self.in_features, "out_features": self.out_features}

    @classmethod
    def rebuild(cls, packed: Format, bias: Tensor | None, entry: Mapping[str, Any], old: nn.Module) -> Self:
        """Return the layer that :meth:`describe` described, in the place of ``old``."""
        assert isinstance(old, nn.Linear | SparseLinear)
        expect_alike(
            "(in, out, bias)",
            (packed.columns, packed.rows, bias is not None),
            header=(entry["in_features"], entry["out_features"], bool(entry["bias"])),
            model=(old.in_features, old.out_features, old.bias is not None),
        )
        activation, absorbs = str(entry.get("activation", "none")), bool(entry.get("absorbed"))
        before = "none" if isinstance(old, nn.Linear) else old.activation
        if absorbs and (isinstance(old, nn.Linear) or not old.absorbed):  # the activation stands behind the old one
            before = activation
        expect_alike("activation", activation, model=before)
        kernels = {int(batch): str(kernel) for batch, kernel in entry["kernel_by_batch"].items()}
        trainable = isinstance(old, SparseLinear) and old.trainable
        return cls(packed, bias, kernel_by_batch=kernels, trainable=trainable, activation=activation)

    def extra_repr(self) -> str:
        """Return sizes, sparsity, format and kernel."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        sizes += "" if self.activation == "none" else f", activation={self.activation}"
        planned = [f"{name} at batch {batch}" for batch, name in self.kernel_by_batch.items()]
        usual = Problem(self.packed, 1, torch.get_num_threads())
        return f"{sizes}{self._packed_repr(planned, usual)}"
