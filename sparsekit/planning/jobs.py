"""What is measured: one layer at one size of input, and every way to run it."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.kernels.base import Multiply
from sparsekit.kernels.candidates import candidates, conv_candidates
from sparsekit.kernels.convolution import Size
from sparsekit.kernels.gpu import gpu_of
from sparsekit.mask import Mask
from sparsekit.nn.border import Border

EAGER = "dense_linear_reference"
"""The kernel that is ``F.linear``: a linear layer in the model, followed by the activation that is to be fused."""

AS_IS = "as it is"
"""A convolution in the model, with the BatchNorm and the activation that are to be fused with it."""

Call = Callable[[], object]

Orders = Literal["contiguous", "channels_last"]
MEMORY_FORMATS: dict[Orders, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
"""Orders in memory of images (N, C, H, W)."""


@dataclass(frozen=True)
class Job(ABC):
    """One layer at one size of input.

    Args:
        weight: ``(out, in, ...)``.
        mask: what stays.
        bias: ``(out,)`` or None.
        others: bytes that the model reads between two calls of this layer, at most; they are read before each
            measured call.
    """

    weight: Tensor
    mask: Mask
    bias: Tensor | None
    others: int

    @property
    @abstractmethod
    def key(self) -> str:
        """What a measurement of this job is cached under; densities within about 9 % share one, full ones their own."""

    @abstractmethod
    def example(self) -> Tensor:
        """Return an input, by a random generator of its own: the user's random numbers stay what they are."""

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """Return the same job in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)

    @abstractmethod
    def calls(self, x: Tensor) -> dict[str, Call]:
        """Return every way to run the layer on ``x``, by kernel name; refusing kernels are left out."""

    def _key(self, kind: str, *details: str) -> str:
        zeros = self.mask.sparsity
        density = min(round(8 * math.log2(max(1 - zeros, 1e-6))), -1) / 8 if zeros else 0
        sizes = "x".join(map(str, self.weight.shape))
        return " ".join(
            (
                f"{kind} {sizes} {str(self.weight.dtype).removeprefix('torch.')} {self.mask.pattern}",
                f"density=2^{density:g}",
                *details,
                f"bias={self.bias is not None} {place(self.weight.device)} others=2^{self.others.bit_length()}",
            )
        )


def place(device: torch.device) -> str:
    """Where a job runs, in words: a CPU by its threads, a GPU by its model."""
    if device.type != "cuda":
        return f"device={device.type} threads={torch.get_num_threads()}"
    gpu = gpu_of(device)
    return f"device={gpu.name} {gpu.capability_text}"


@dataclass(frozen=True)
class LinearJob(Job):
    """A linear layer at one batch size.

    Args:
        batch: tokens.
        activation: what is applied to the result.
        quantize: what weights may be rounded to: "int8", or None for exact ways only.
    """

    batch: int
    activation: str = "none"
    quantize: str | None = None

    @property
    def key(self) -> str:
        """See :class:`Job`."""
        rounded = (f"quantize={self.quantize}",) if self.quantize else ()
        return self._key("linear", f"batch={self.batch} {self.activation}", *rounded)

    def example(self) -> Tensor:
        """Return tokens ``(batch, in)``."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, self.weight.shape[1], generator=generator, device="cpu").to(self.weight)

    def calls(self, x: Tensor) -> dict[str, Call]:
        """Return every way to multiply ``x``."""
        ways = candidates(self.weight, self.mask, self.batch, self.quantize is not None)
        return {k.name: partial(k.bind_with(packed, self.activation), x, self.bias) for k, packed in ways}


@dataclass(frozen=True)
class ConvJob(Job):
    """A convolution at one size of images, and at one order of them in memory.

    Args:
        border: what is done with the weight, the activation that is fused with it included, and what it pads with.
        size: ``(N, H, W)``.
        order: of the images that come and of those that go.
        dense: the layers of the model that do the same, one after the other.
    """

    border: Border
    size: Size
    order: Orders
    dense: tuple[nn.Module, ...]

    @property
    def key(self) -> str:
        """See :class:`Job`."""
        layers = "+".join(type(layer).__name__ for layer in self.dense)
        done = f"{self.border.convolution.text} {self.border.mode}"
        return self._key("conv", done, f"size={self.size} {self.order} of {layers}")

    def example(self) -> Tensor:
        """Return images ``(N, C, H, W)``."""
        batch, height, width = self.size
        shape = (batch, self.border.convolution.in_channels, height, width)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(self.weight)
        return x.contiguous(memory_format=MEMORY_FORMATS[self.order])

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """See :class:`Job`."""
        dense = tuple(copy.deepcopy(layer).to(dtype) for layer in self.dense)
        return replace(super().in_dtype(dtype), dense=dense)

    def calls(self, x: Tensor) -> dict[str, Call]:
        """Return every way to convolve ``x`` that leaves a result in the same order."""
        order, done = MEMORY_FORMATS[self.order], self.border.inner
        as_is = nn.Sequential(*copy.deepcopy(self.dense)).to(memory_format=order).eval()  # type: ignore[call-overload]
        found: dict[str, Call] = {AS_IS: partial(as_is, x)}
        for kernel, packed in conv_candidates(self.weight, self.mask, done, self.border.inner_size(self.size)):
            found[kernel.name] = partial(self._run, kernel.bind(packed, done), x, order)
        return found

    def _run(self, run: Multiply, x: Tensor, order: torch.memory_format) -> Tensor:
        return run(self.border.around(x), self.bias).contiguous(memory_format=order)
