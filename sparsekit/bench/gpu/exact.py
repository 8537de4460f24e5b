"""Whether a result on a GPU is right, which everything has to show before it is timed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.errors import KernelError


@dataclass(frozen=True)
class Exact:
    """A sum of products in float64, and how large its terms are.

    Args:
        value: the sums.
        scale: the sums of the absolute products.
        norm: the roots of the sums of the squared products: about how large a partial sum is.
        terms: of one sum.
    """

    value: Tensor
    scale: Tensor
    norm: Tensor
    terms: int

    @classmethod
    def product(cls, a: Tensor, b: Tensor) -> Self:
        """Return ``a @ b``."""
        a, b = a.double(), b.double()
        return cls(a @ b, a.abs() @ b.abs(), (a.square() @ b.square()).sqrt(), a.shape[-1])

    def map(self, change: Callable[[Tensor], Tensor]) -> Exact:
        """Return what ``change`` makes of the tensors, such as a choice or another order of their elements."""
        return Exact(change(self.value), change(self.scale), change(self.norm), self.terms)

    def expect(self, name: str, y: Tensor, *, lenient: bool = False) -> None:
        """Raise :class:`KernelError`, which begins with ``name``, unless ``y`` is right up to rounding.

        A kernel sums up in float32 and rounds once, at the end:
        ``|y - exact| <= 2 eps(dtype) |exact| + (2 + sqrt(terms)) eps(float32) scale``.

        Args:
            name: what is blamed.
            y: what was computed.
            lenient: other libraries may round partial sums to the dtype too.
        """
        if y.shape != self.value.shape:
            raise KernelError(f"{name}: expected a result of {tuple(self.value.shape)}, got {tuple(y.shape)}")
        single, own = torch.finfo(torch.float32), torch.finfo(y.dtype)
        rounded = self.value.abs() + self.norm if lenient else self.value.abs()
        bound = 2 * own.eps * rounded + (2 + math.sqrt(self.terms)) * single.eps * self.scale
        bound += own.tiny * own.eps * (self.terms + 1)
        error = (y.double() - self.value).abs()
        wrong = ~(error <= bound)
        if bool(wrong.any()):
            worst = torch.where(wrong, error / bound, 0.0).nan_to_num(torch.inf).max().item()
            at = tuple(int(i) for i in wrong.nonzero()[0])
            raise KernelError(
                f"{name}: {int(wrong.sum())} of {wrong.numel()} results are wrong, by up to {worst:.3g} times what "
                f"rounding explains; the first at {at}: {y[at].item():g} instead of {self.value[at].item():g}"
            )


def rounds_once(kernel: str) -> bool:
    """Whether a kernel of this name sums up in float32; one that calls another library may not."""
    return "cusparselt" not in kernel


@contextmanager
def poisoned() -> Iterator[None]:
    """Let memory that is handed out be full of NaN, so that a result that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some of what runs is not deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
