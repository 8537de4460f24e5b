"""What a convolution does beside its weight, and the kernels that convolve with a packed one.

The packed weight is the matrix ``(out, in / groups * kh * kw)``, its columns in the order of ``weight.flatten(1)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.errors import InputError, LayerError
from sparsekit.formats.base import Format
from sparsekit.kernels.base import Multiply, PackedProblem, Runs

Pair = tuple[int, int]
Size = tuple[int, int, int]
"""Batch, height and width of the images ``(N, C, H, W)``."""

Activation = Literal["none", "relu", "silu"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


@dataclass(frozen=True)
class Convolution:
    """What a two-dimensional convolution does beside its weight.

    Args:
        in_channels: channels of the input.
        kernel_size: height and width of a kernel.
        stride: step between outputs, down and to the right.
        padding: rows and columns of zeros (top, bottom, left, right).
        dilation: step between the taps of a kernel, down and to the right.
        groups: the input channels are split into so many groups, each convolved by its share of the outputs.
        activation: what is applied to the result, "none", "relu" or "silu".

    Raises:
        LayerError: a size is none, the groups do not divide the channels, or the activation is unknown.
    """

    in_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: str = "none"

    def __post_init__(self) -> None:
        for what, got, length in (
            ("kernel_size", self.kernel_size, 2),
            ("stride", self.stride, 2),
            ("dilation", self.dilation, 2),
            ("groups", (self.groups,), 1),
        ):
            if len(got) != length or not all(isinstance(n, int) and n >= 1 for n in got):
                raise LayerError(f"convolution: expected {what} to be {length} integers of at least 1, got {got}")
        if len(self.padding) != 4 or not all(isinstance(n, int) and n >= 0 for n in self.padding):
            raise LayerError(f"convolution: expected padding to be 4 integers of at least 0, got {self.padding}")
        if self.in_channels < 0 or self.in_channels % self.groups:
            raise LayerError(f"convolution: expected channels of {self.groups} groups, got {self.in_channels}")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise LayerError(f"convolution: expected an activation of {known}, got {self.activation!r}")

    @classmethod
    def of(cls, conv: nn.Conv2d, activation: str = "none") -> Self:
        """Return what ``conv`` does, with ``activation`` after it.

        A padding of "same" is resolved as torch does: what cannot be halved goes to the end. With what ``conv`` pads is
        not said here: where it is not zeros, the layer pads.
        """
        (kh, kw), (sh, sw), (dh, dw) = map(_pair, (conv.kernel_size, conv.stride, conv.dilation))
        done = cls(conv.in_channels, (kh, kw), (sh, sw), (0, 0, 0, 0), (dh, dw), conv.groups, activation)
        if conv.padding == "same":
            return replace(done, padding=done.same_padding)
        if isinstance(conv.padding, str):
            return done
        down, across = _pair(conv.padding)
        return replace(done, padding=(down, down, across, across))

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_text(text: str) -> Convolution:
        """Return the convolution whose :attr:`text` this is."""
        return Convolution.from_json(json.loads(text))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the convolution that :meth:`as_json` described."""
        read: dict[str, Any] = {n: tuple(f) if isinstance(f, list) else f for n, f in fields.items()}
        return cls(**read)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {name: list(field) if isinstance(field, tuple) else field for name, field in asdict(self).items()}

    @property
    def text(self) -> str:
        """The fields as one string, for an operator's arguments."""
        return json.dumps(self.as_json())

    @property
    def columns(self) -> int:
        """Columns of the packed weight: what one output sees."""
        return self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]

    @property
    def reach(self) -> Pair:
        """Rows and columns that a kernel covers, dilation included."""
        (kh, kw), (dh, dw) = self.kernel_size, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    @property
    def same_padding(self) -> tuple[int, int, int, int]:
        """The padding that keeps the size of an image at a stride of 1; what cannot be halved goes to the end."""
        high, wide = (reach - 1 for reach in self.reach)
        return high // 2, high - high // 2, wide // 2, wide - wide // 2

    def padded_size(self, height: int, width: int) -> Pair:
        """Return height and width of an image with its zeros around it."""
        top, bottom, left, right = self.padding
        return top + height + bottom, left + width + right

    def output_size(self, height: int, width: int) -> Pair:
        """Return height and width of the result for an image of ``height`` and ``width``; below 1 where it has none."""
        (high, wide), (down, across) = self.padded_size(height, width), self.reach
        return (high - down) // self.stride[0] + 1, (wide - across) // self.stride[1] + 1

    def weight_shape(self, out_channels: int) -> tuple[int, int, int, int]:
        """Return the shape of the dense weight, ``(out, in / groups, kh, kw)``."""
        return (out_channels, self.in_channels // self.groups, *self.kernel_size)

    def check_weight(self, rows: int, columns: int, where: str) -> None:
        """Raise :class:`LayerError`, which begins with ``where``, unless a weight ``(rows, columns)`` fits."""
        if columns != self.columns or rows % self.groups:
            of = f", rows a multiple of {self.groups}" if self.groups > 1 else ""
            raise LayerError(f"{where}: expected a weight of {self.columns} columns{of}, got {rows} x {columns}")

    def check_images(self, shape: tuple[int, ...], where: str) -> None:
        """Raise :class:`InputError`, which begins with ``where``, unless images of ``shape`` can be convolved."""
        if len(shape) != 4:
            raise InputError(f"{where}: expected an input of 4 dimensions (N, C, H, W), got {tuple(shape)}")
        if shape[1] != self.in_channels:
            raise InputError(f"{where}: expected an input of {self.in_channels} channels, got {shape[1]}")
        padded, reach = self.padded_size(shape[2], shape[3]), self.reach
        if min(shape[2:]) < 1 or padded[0] < reach[0] or padded[1] < reach[1]:
            raise InputError(
                f"{where}: expected a padded image of at least {reach[0]} x {reach[1]}, "
                f"got {padded[0]} x {padded[1]} from an image of {shape[2]} x {shape[3]}"
            )


@dataclass(frozen=True)
class ConvProblem(PackedProblem):
    """One convolution of images ``(N, C, H, W)``.

    Args:
        packed: the packed weight, ``(out, in / groups * kh * kw)``.
        convolution: what is done with it.
        size: ``(N, H, W)`` of the input.
        threads: threads the kernel may use.
    """

    convolution: Convolution
    size: Size
    threads: int = 1

    @property
    def key(self) -> Size:
        """The size."""
        return self.size

    @property
    def sentence(self) -> str:
        """Format, dtype, device, convolution and size."""
        images = "{} images of {} x {}".format(*self.size)
        return f"convolves {images} with {self.packed.name} in {self.dtype} on {self.device} by {self.convolution}"


@dataclass(frozen=True)
class ConvKernel(Runs[ConvProblem]):
    """Code that convolves with one format.

    Args:
        bind: given a packed weight and a convolution, returns ``run(x, bias) -> y`` for ``x`` ``(N, C, H, W)`` and
            ``bias`` ``(out,)`` or None, of the weight's dtype and device; ``x`` may have any strides. ``y``
            ``(N, out, H', W')`` lies in memory in NCHW or in channels_last order, whichever the kernel writes, and
            belongs to the caller. What the kernel derives from the weight is done once, in ``bind``, which copies
            the packed tensors or keeps them alive. The images have been checked (:meth:`Convolution.check_images`).
    """

    bind: Callable[[Format, Convolution], Multiply]


def _pair(value: int | tuple[int, ...]) -> Pair:
    """One number for both directions, which torch takes too where a model changes a setting of its layers."""
    down, across = (value, value) if isinstance(value, int) else value
    return down, across


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last where the channels of ``x`` ``(N, C, H, W)`` are the closest in memory, else contiguous.

    It is the order in which layers and operators return their result.
    """
    return torch.channels_last if x.stride(1) < x.stride(3) else torch.contiguous_format


def in_order_of(x: Tensor, y: Tensor, order: torch.memory_format | None = None) -> Tensor:
    """Return ``y``, copied where it does not lie in the memory order of ``x``, or in ``order`` where that is given."""
    return y.contiguous(memory_format=order or memory_format_of(x))
