"""How weights are kept, what runs each kind, and when a result of it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsekit.bench.rounding import expect_exact, expect_rounded, rounding_of_8_bits
from sparsekit.formats import Format, Quantized
from sparsekit.kernels import Kernel
from sparsekit.kernels.candidates import candidates
from sparsekit.mask import Mask


@dataclass(frozen=True)
class Weights:
    """One kind of weights.

    Args:
        name: what it is called in a table.
        dtype: of the weight that is given, and of activations and results.
        ways: given weight, mask and batch, every kernel that is measured with the weight packed for it: where nothing
            is removed the dense ones, which the sparse ones of this kind have to beat.
        rounds: whether weights and activations are rounded to 8 bits on the way.
    """

    name: str
    dtype: torch.dtype
    ways: Callable[[Tensor, Mask, int], Iterable[tuple[Kernel, Format]]]
    rounds: bool = False


def quantized(weight: Tensor, mask: Mask, batch: int) -> Iterable[tuple[Kernel, Format]]:
    """Those of the candidates that round, the dense ones among them."""
    return (way for way in candidates(weight, mask, batch, quantize=True) if isinstance(way[1], Quantized))


WEIGHTS = {
    kind.name: kind
    for kind in (
        Weights("float32", torch.float32, candidates),
        Weights("bfloat16", torch.bfloat16, candidates),
        Weights("int8", torch.float32, quantized, rounds=True),
    )
}


@dataclass(frozen=True)
class Expected:
    """What ``x @ weight.T + bias`` has to give; removed weights are 0."""

    x: Tensor
    weight: Tensor
    bias: Tensor

    @cached_property
    def exact(self) -> Tensor:
        """The result in float64."""
        return self.x.double() @ self.weight.double().T + self.bias.double()

    @cached_property
    def scale(self) -> Tensor:
        """The same of absolute values."""
        return self.x.double().abs() @ self.weight.double().abs().T + self.bias.double().abs()

    @cached_property
    def rounding(self) -> Tensor:
        """The standard deviation that 8 bits give each element."""
        return rounding_of_8_bits(self.x.double(), self.weight.double())

    def check(self, name: str, y: Tensor, rounds: bool = False) -> None:
        """Raise :class:`KernelError` unless ``y`` is right up to rounding, that to 8 bits included if it ``rounds``."""
        if rounds:
            expect_rounded(name, y, self.exact, self.rounding)
        else:
            expect_exact(name, y.to(self.x.dtype), self.exact, self.scale)
