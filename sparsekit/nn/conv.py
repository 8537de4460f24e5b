"""A two-dimensional convolution with a packed weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

import sparsekit.kernels
from sparsekit.errors import FormatError, InputError, LayerError
from sparsekit.formats import Format
from sparsekit.kernels.base import Multiply
from sparsekit.kernels.binding import Bound, version
from sparsekit.kernels.candidates import conv_candidates
from sparsekit.kernels.convolution import (
    ConvKernel,
    Convolution,
    ConvProblem,
    Size,
    in_order_of,
)
from sparsekit.mask import Mask
from sparsekit.nn.choice import by_measurement, conv_by_rule, pack_as
from sparsekit.nn.dense import PADDING_MODES, PaddingMode, bias_of, conv2d_of, mask_of, weight_of
from sparsekit.nn.packed import PREFIX, PackedLayer
from sparsekit.nn.ready import is_plain, needs_gradient
from sparsekit.ops import call_conv2d, check_bias, check_images, kernel_names


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

    Raises:
        LayerError: the weight does not belong to the convolution, or the padding mode is unknown.
        InputError: the bias does not fit the weight.
    """

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
    ) -> None:
        convolution.check_weight(packed.rows, packed.columns, type(self).__name__)
        if padding_mode not in PADDING_MODES:
            known = ", ".join(PADDING_MODES)
            raise LayerError(f"{type(self).__name__}: expected a padding mode of {known}, got {padding_mode!r}")
        super().__init__(packed, bias, kernels, trainable)
        self.kernel_by_size = dict(kernel_by_size or {})
        self.convolution, self.padding_mode = convolution, padding_mode
        self.in_channels, self.out_channels = convolution.in_channels, packed.rows
        top, bottom, left, right = convolution.padding
        around = padding_mode != "zeros" and any(convolution.padding)
        self._border = (left, right, top, bottom) if around else ()
        self._inner = replace(convolution, padding=(0, 0, 0, 0)) if around else convolution
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
            or (bias is not None and bias.dtype is not ready.dtype)
        ):
            x = self._checked(x, bias)
        size = (shape[0], shape[2], shape[3])
        run = ready.runs.get(size)
        if run is None:
            x = self._checked(x, bias)
            if not shape[0] or not self.out_channels:
                return self._through_operator(x, bias)
            run = self._get_run(size, ready)
        return in_order_of(x, run(self._padded(x), bias))

    def to_dense(self) -> nn.Conv2d | nn.Sequential:
        """Return a dense layer of the same weight, bias and mode, followed by the activation where there is one.

        Raises:
            LayerError: torch's Conv2d does not pad so.
        """
        # on meta: nothing is drawn at random only to be written over
        dense = conv2d_of(self.convolution, self.out_channels, self.bias is not None, self.padding_mode, self.label)
        dense.weight = nn.Parameter(self.weight)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        after = {"relu": nn.ReLU, "silu": nn.SiLU}.get(self.convolution.activation)
        return (nn.Sequential(dense, after()) if after else dense).train(self.training)

    def _through_operator(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = self._checked(x, bias)
        parts = [getattr(self, name) for name in self._part_names]
        names = (self.format.name, self._inner.text, kernel_names(self._inner_names()))
        return in_order_of(x, call_conv2d(self._padded(x), bias, parts, list(self._integer_values), names))

    def _padded(self, x: Tensor) -> Tensor:
        """Return the input with what is not zeros around it, in the same memory order."""
        if not self._border:
            return x
        return in_order_of(x, F.pad(x, self._border, self.padding_mode))

    def _inner_names(self) -> dict[Size, str]:
        """The kernel names by the size of what :meth:`_padded` returns."""
        if not self._border:
            return self.kernel_by_size
        return {(n, *self.convolution.padded_size(h, w)): name for (n, h, w), name in self.kernel_by_size.items()}

    def _check_input(self, x: Tensor, bias: Tensor | None, values: Tensor) -> None:
        check_images(x, bias, values, (self.convolution, self.out_channels), self.label)
        if self._border:
            left, right, top, bottom = self._border
            most = (max(top, bottom), max(left, right))
            spare = {"reflect": 1, "circular": 0}.get(self.padding_mode)
            if spare is not None and (x.shape[2] < most[0] + spare or x.shape[3] < most[1] + spare):
                raise InputError(
                    f"{self.label}: expected an image of at least {most[0] + spare} x {most[1] + spare} for "
                    f"{self.padding_mode} padding, got {x.shape[2]} x {x.shape[3]}"
                )

    def _bind(self, weight: Bound, key: Any) -> Multiply:
        size = key if not self._border else (key[0], *self.convolution.padded_size(key[1], key[2]))
        return weight.convolve(self._inner, size, self._inner_names(), self._own_kernels())

    def _own_kernels(self) -> tuple[ConvKernel, ...]:
        return sparsekit.kernels.CONV_KERNELS if self.kernels is None else self.kernels

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the buffers do not hold, as JSON types: format, integers, convolution, kernels."""
        return {
            **super().get_extra_state(),
            "convolution": self.convolution.as_json(),
            "padding_mode": self.padding_mode,
            "kernel_by_size": [[*size, name] for size, name in self.kernel_by_size.items()],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` returned; the buffers have already been made to fit."""
        self.kernel_by_size = {(n, h, w): name for n, h, w, name in state["kernel_by_size"]}

    def _make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        own = self.get_extra_state()
        extra = state_dict.get(prefix + "_extra_state", own)
        for what in ("convolution", "padding_mode"):
            if extra.get(what) != own[what]:
                raise FormatError(f"expected {what} {own[what]}, got {extra.get(what)}")
        super()._make_room(state_dict, prefix)

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
        problem = ConvProblem(self.packed, self._inner, usual, torch.get_num_threads())
        return f"{text}, bias={self.bias is not None}{self._packed_repr(planned, problem)}"


def _size_of(x: Tensor) -> Size:
    return x.shape[0], x.shape[2], x.shape[3]


def _in_order(run: Multiply, x: Tensor, bias: Tensor | None) -> Tensor:
    """Run a bound kernel and return its result in the memory order of ``x``, as the layer does."""
    return in_order_of(x, run(x, bias))
