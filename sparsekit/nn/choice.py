"""Which format a layer takes when the caller names none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.formats import CSR, FORMATS, Bitmask, BlockCSR, Dense, Format, NMPacked
from sparsekit.kernels.base import Kernel, Multiply, Problem, choose
from sparsekit.kernels.reference import REFERENCE_KERNELS
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block

BUDGET_S = 0.2
"""Seconds that choosing a format by measurement takes."""


def by_rule(mask: Mask) -> type[Format]:
    """Return the format that usually is the fastest for ``mask``.

    A Block mask goes to block CSR; an NM mask to the N:M format where a kernel other than the reference runs it; else
    the sparsity decides: CSR from 0.7, bitmask from 0.4, dense below.
    """
    if isinstance(mask.pattern, Block):
        return BlockCSR
    if isinstance(mask.pattern, NM) and NMPacked.accepts(mask) is None and _has_own_kernel(NMPacked):
        return NMPacked
    sparsity = mask.sparsity
    return CSR if sparsity >= 0.7 else Bitmask if sparsity >= 0.4 else Dense


def by_measurement(weight: Tensor, mask: Mask, bias: Tensor | None, x: Tensor) -> Format:
    """Return ``weight`` packed in the format that multiplies ``x`` ``(batch, columns)`` the fastest on this machine."""
    packed = {family.name: family.pack(weight, mask) for family in FORMATS if family.accepts(mask) is None}
    multiplies: dict[str, Multiply] = {}
    for name, candidate in packed.items():
        kernel = choose(Problem(candidate, x.shape[0], torch.get_num_threads()), sparsekit.kernels.KERNELS)
        if _pays(kernel):
            multiplies[name] = kernel.bind(candidate)
    with torch.no_grad():
        times = fastest({name: _call(multiply, x, bias) for name, multiply in multiplies.items()}, BUDGET_S)
    return packed[next(iter(times))]


def _call(multiply: Multiply, x: Tensor, bias: Tensor | None) -> Callable[[], Tensor]:
    return lambda: multiply(x, bias)


def _has_own_kernel(family: type[Format]) -> bool:
    return any(k.format is family and k not in REFERENCE_KERNELS for k in sparsekit.kernels.KERNELS)


def _pays(kernel: Kernel) -> bool:
    """Whether the kernel could be faster than dense: unpacking into the dense product never is."""
    return kernel.format is Dense or kernel not in REFERENCE_KERNELS
