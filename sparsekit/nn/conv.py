"""A two-dimensional convolution with a packed weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

import sparsekit.kernels
from sparsekit.errors import FormatError, LayerError
from sparsekit.formats import Format
from sparsekit.kernels.base import Multiply
from sparsekit.kernels.binding import Bound, version
from sparsekit.kernels.candidates import conv_candidates
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem, Size, in_order_of
from sparsekit.mask import Mask
from sparsekit.nn.activation import module_of
from sparsekit.nn.border import Border, PaddingMode
from sparsekit.nn.choice import by_measurement, conv_by_rule, pack_as
from sparsekit.nn.dense import bias_of, conv2d_of, mask_of, weight_of
from sparsekit.nn.packed import PREFIX, PackedLayer, expect_alike
from sparsekit.nn.ready import is_plain, needs_gradient
from sparsekit.ops import call_conv2d, check_bias, check_images, kernel_names

_ORDERS = {None: None, torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}


class SparseConv2d(PackedLayer):
    """A :class:`torch.nn.Conv2d` with the weight in a packed format, and an activation after it.

    It takes images ``(N, C, H, W)`` of any strides, an empty batch included, and returns ``(N, out, H', W')`` in
    channels_last order where the input has it, else contiguous. Unlike torch's it takes no image without a batch
    dimension. Dtypes, autocast, gradients and ``trainable`` are as in :class:`~sparsekit.nn.SparseLinear`.

    Args:
        packed: the weight ``(out, in / groups * kh * kw)``, columns in the order of the dense ``weight.flatten(1)``.
        convolution: stride, padding, dilation, groups and activation.
        bias: ``(out,)`` or None.
        kernels: the kernels to choose from in eager inference, in the order of preference; None = sparsekit's own. In
            training and under torch.compile and torch.export sparsekit's own are used.
        kernel_by_size: kernel name by input size ``(N, H, W)``, as a plan chose them; other sizes take the first kernel
            that does not refuse.
        trainable: whether the stored values are parameters.
        padding_mode: what is put into the padding: "zeros", "reflect", "replicate" or "circular".
        memory_format: the order in memory of what is returned, ``torch.contiguous_format`` or ``torch.channels_last``;
            None = that of the input.

    Raises:
        LayerError: the weight does not belong to the convolution, or padding mode or memory format is unknown.
        InputError: the bias does not fit the weight.
    """

    kind = "conv2d"
    dense_class = nn.Conv2d

    def __init__(  # noqa: PLR0913 - the settings of a convolution
        self,
        packed: Format,
        convolution: Convolution,
        bias: Tensor | None = None,
        *,
        kernels: Sequence[ConvKernel] | None = None,
        kernel_by_size: Mapping[Size, str] | None = None,
        trainable: bool = False,
        padding_mode: PaddingMode = "zeros",
        memory_format: torch.memory_format | None = None,
    ) -> None:
        convolution.check_weight(packed.rows, packed.columns, type(self).__name__)
        if memory_format not in _ORDERS:
            raise LayerError(f"{type(self).__name__}: expected contiguous_format or channels_last, got {memory_format}")
        super().__init__(packed, bias, kernels, trainable)
        self.kernel_by_size = dict(kernel_by_size or {})
        self.convolution, self.padding_mode, self.memory_format = convolution, padding_mode, memory_format
        self._border = Border(convolution, padding_mode)
        self.in_channels, self.out_channels = convolution.in_channels, packed.rows
        for name in ("kernel_size", "stride", "dilation", "groups"):  # some models read these of their layers
            setattr(self, name, getattr(convolution, name))
        if bias is not None:
            check_bias(bias, packed.values, packed.rows, type(self).__name__)

    @classmethod
    def from_packed(cls, packed: Format, convolution: Convolution, bias: Tensor | None = None, **settings: Any) -> Self:
        """Make a layer of a packed weight; see the class."""
        return cls(packed, convolution, bias, **settings)

    @classmethod
    def from_dense(
        cls,
        conv: nn.Conv2d,
        mask: Mask | Tensor | None = None,
        format: type[Format] | str | None = None,
        example: Tensor | None = None,
        activation: str = "none",
        trainable: bool = False,
    ) -> Self:
        """Pack the weight of ``conv``, which stays as it is.

        Args:
            conv: the layer to replace.
            mask: which weights stay; a bool tensor is an unstructured mask; None = read the zeros of the weight.
            format: a format or its name; None = choose by ``example``, or else by rule (see
                :func:`sparsekit.nn.choice.conv_by_rule`).
            example: an input ``(N, C, H, W)`` of the size and memory order that count; every format that stores the
                mask is timed on it, the convolution alone and not its gradients.
            activation: what follows the layer and is done by it: "none", "relu" or "silu".
            trainable: whether the kept weights are parameters, ``packed_values``; the mask is then fixed.

        Raises:
            LayerError: the layer is no Conv2d, has no data (meta, lazy), or its weight is no floating tensor.
            MaskError: the mask does not belong to the weight.
            FormatError: the format is unknown, or cannot store the mask, or cannot train it.
            InputError: the example does not fit the layer.
        """
        weight = weight_of(conv, nn.Conv2d, cls.__name__)
        mask, bias = mask_of(weight, mask), bias_of(conv)
        convolution = Convolution.of(conv, activation)
        kernels: dict[Size, str] = {}
        if format is None and example is not None:
            check_images(example, bias, weight, (convolution, conv.out_channels), "example")
            x, size = example.detach(), _size_of(example)
            packed, kernel = by_measurement(
                conv_candidates(weight, mask, convolution, size),
                lambda way, stored: partial(_in_order, way.bind(stored, convolution), x, bias),
                mask,
                trainable,
            )
            kernels[size] = kernel.name
        else:
            packed = pack_as(conv_by_rule(mask, trainable) if format is None else format, weight, mask, trainable)
        settings: dict[str, Any] = {"trainable": trainable, "padding_mode": conv.padding_mode}
        return cls(packed, convolution, bias, kernel_by_size=kernels, **settings).train(conv.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight ``(out, in / groups, kh, kw)``, unpacked anew at each access and without a gradient."""
        return super().weight.reshape(self.convolution.weight_shape(self.out_channels))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activated convolution of ``input`` ``(N, C, H, W)``.

        Raises:
            InputError: the input has another dtype, device or number of channels than the layer, or is too small.
            KernelError: no kernel runs the problem.
        """
        x, bias = input, self.bias
        try:
            values: Tensor = self._buffers[PREFIX + "values"]  # type: ignore[assignment]
        except KeyError:  # a trainable layer
            values = self._parameters[PREFIX + "values"]  # type: ignore[assignment]
        if torch.compiler.is_compiling() or not is_plain(x) or needs_gradient(x, bias, values):
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
            len(shape) != 4
            or shape[1] != self.in_channels
            or x.dtype is not ready.dtype
            or x.device != ready.device
            or (bias is not None and not ready.takes(bias))
        ):
            x = self._checked(x, bias)
        size = (shape[0], shape[2], shape[3])
        run = ready.runs.get(size)
        if run is None:
            x = self._checked(x, bias)
            if not shape[0] or not self.out_channels:
                return self._through_operator(x, bias)
            run = self._get_run(size, ready)
        return in_order_of(x, run(self._border.around(x), bias), self.memory_format)

    def to_dense(self) -> nn.Conv2d | nn.Sequential:
        """Return a dense layer of the same weight, bias and mode, followed by the activation where there is one.

        Raises:
            LayerError: torch's Conv2d does not pad so.
        """
        # on meta: nothing is drawn at random only to be written over
        dense = conv2d_of(self.convolution, self.out_channels, self.bias is not None, self.padding_mode, self.label)
        dense.weight = nn.Parameter(self.weight)
        dense.register_parameter("bias", bias_of(self))
        after = module_of(self.convolution.activation)
        return (nn.Sequential(dense, after) if after else dense).train(self.training)

    def _through_operator(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = self._checked(x, bias)
        parts = [getattr(self, name) for name in self._part_names]
        border = self._border
        names = (self.format.name, border.inner_text, kernel_names(border.inner_names(self.kernel_by_size)))
        y = call_conv2d(border.around(x), bias, parts, list(self._integer_values), names)
        return in_order_of(x, y, self.memory_format)

    def _check_input(self, x: Tensor, bias: Tensor | None, values: Tensor) -> None:
        check_images(x, bias, values, (self.convolution, self.out_channels), self.label)
        self._border.check(x, self.label)

    def _bind(self, weight: Bound, key: Any) -> Multiply:
        border, names = self._border, self.kernel_by_size
        return weight.convolve(border.inner, border.inner_size(key), border.inner_names(names), self._own_kernels())

    def _own_kernels(self) -> tuple[ConvKernel, ...]:
        return sparsekit.kernels.CONV_KERNELS if self.kernels is None else self.kernels

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the buffers do not hold, as JSON types: format, integers, convolution, kernels."""
        return {
            **super().get_extra_state(),
            "convolution": self.convolution.as_json(),
            "padding_mode": self.padding_mode,
            "memory_format": _ORDERS[self.memory_format],
            "kernel_by_size": [[*size, name] for size, name in self.kernel_by_size.items()],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` returned; the buffers have already been made to fit."""
        self.kernel_by_size = {(n, h, w): name for n, h, w, name in state["kernel_by_size"]}
        self.memory_format = _order_named(state["memory_format"])

    def _make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        own = self.get_extra_state()
        extra = state_dict.get(prefix + "_extra_state", own)
        for what in ("convolution", "padding_mode"):
            if extra.get(what, own[what]) != own[what]:
                raise FormatError(f"expected {what} {own[what]}, got {extra[what]}")
        super()._make_room(state_dict, prefix)

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint has to know beside the tensors, as JSON types."""
        return {"layer": self.kind, **super().describe(), "out_channels": self.out_channels}

    @classmethod
    def rebuild(cls, packed: Format, bias: Tensor | None, entry: Mapping[str, Any], old: nn.Module) -> Self:
        """Return the layer that :meth:`describe` described, in the place of ``old``."""
        assert isinstance(old, nn.Conv2d | SparseConv2d)
        convolution = Convolution.from_json(entry["convolution"])
        absorbs, mode = bool(entry.get("absorbed")), entry["padding_mode"]
        before, has_bias = Convolution.of(old) if isinstance(old, nn.Conv2d) else old.convolution, old.bias is not None
        if absorbs and (isinstance(old, nn.Conv2d) or not old.absorbed):  # what was absorbed stands behind the old one
            before, has_bias = replace(before, activation=convolution.activation), has_bias or bias is not None
        expect_alike(
            "(out, bias)",
            (packed.rows, bias is not None),
            header=(entry["out_channels"], bool(entry["bias"])),
            model=(old.out_channels, has_bias),
        )
        expect_alike("(convolution, padding mode)", (convolution, mode), model=(before, old.padding_mode))
        kernels = {(int(n), int(h), int(w)): str(kernel) for n, h, w, kernel in entry["kernel_by_size"]}
        order = _order_named(entry["memory_format"])
        settings: dict[str, Any] = {"padding_mode": mode, "memory_format": order}
        settings["trainable"] = isinstance(old, SparseConv2d) and old.trainable
        return cls(packed, convolution, bias, kernel_by_size=kernels, **settings)

    def extra_repr(self) -> str:
        """Return sizes, what the convolution does, sparsity, format and kernel."""
        done, usual = self.convolution, (1, *self.convolution.reach)
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={done.kernel_size}, stride={done.stride}"
        if any(done.padding):
            text += f", padding={done.padding}" + ("" if self.padding_mode == "zeros" else f" of {self.padding_mode}")
        for what, value, usually in (
            ("dilation", done.dilation, (1, 1)),
            ("groups", done.groups, 1),
            ("activation", done.activation, "none"),
        ):
            text += "" if value == usually else f", {what}={value}"
        planned = [f"{name} at {size[0]} x {size[1]} x {size[2]}" for size, name in self.kernel_by_size.items()]
        problem = ConvProblem(self.packed, self._border.inner, usual, torch.get_num_threads())
        return f"{text}, bias={self.bias is not None}{self._packed_repr(planned, problem)}"


def _order_named(name: str | None) -> torch.memory_format | None:
    return {known: order for order, known in _ORDERS.items()}[name]


def _size_of(x: Tensor) -> Size:
    return x.shape[0], x.shape[2], x.shape[3]


def _in_order(run: Multiply, x: Tensor, bias: Tensor | None) -> Tensor:
    """Run a bound kernel and return its result in the memory order of ``x``, as the layer does."""
    return in_order_of(x, run(x, bias))
