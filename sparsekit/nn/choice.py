"""Which format a layer takes when the caller names none."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.errors import FormatError
from sparsekit.formats import CSR, Bitmask, BlockCSR, Dense, Format, NMPacked, Refusal, stored_weights
from sparsekit.kernels.base import Kernel
from sparsekit.kernels.candidates import candidates, is_reference
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block

BUDGET_S = 0.2
"""Seconds that choosing a format by measurement takes."""


def by_rule(mask: Mask, trainable: bool = False) -> type[Format]:
    """Return the format that usually is the fastest for ``mask``.

    A Block mask goes to block CSR; an NM mask to the N:M format where a kernel other than the reference runs it; else
    the sparsity decides: CSR from 0.7, bitmask from 0.4, dense below. A trainable weight that has zeros takes bitmask
    instead of dense, which would not keep them.
    """
    if isinstance(mask.pattern, Block):
        return BlockCSR
    if isinstance(mask.pattern, NM) and NMPacked.accepts(mask) is None and _has_own_kernel(NMPacked):
        return NMPacked
    sparsity = mask.sparsity
    return CSR if sparsity >= 0.7 else Bitmask if sparsity >= 0.4 or (trainable and sparsity) else Dense


def by_measurement(
    weight: Tensor, mask: Mask, bias: Tensor | None, x: Tensor, trainable: bool = False
) -> tuple[Format, Kernel]:
    """Return the packed weight and the kernel that multiply ``x`` ``(batch, columns)`` the fastest on this machine.

    Of a trainable weight only the formats count that can train the mask.

    Raises:
        FormatError: no format can.
    """
    ways = {
        kernel.name: (packed, kernel)
        for kernel, packed in candidates(weight, mask, x.shape[0])
        if not (trainable and cannot_train(packed, mask))
    }
    if not ways:
        raise FormatError(f"expected a format that can train {mask} and has a kernel for this problem, found none")
    with torch.no_grad():
        calls = {name: partial(kernel.bind(packed), x, bias) for name, (packed, kernel) in ways.items()}
        return ways[next(iter(fastest(calls, BUDGET_S)))]


def cannot_train(packed: Format, mask: Mask) -> Refusal | None:
    """Return None where ``packed`` stores the kept weights of ``mask`` and no others, else the reason why not."""
    stored = stored_weights(packed)
    if stored == mask.nnz:
        return None
    return Refusal(f"{packed} stores {stored} weights, and the mask keeps {mask.nnz}: training would fill the others")


def _has_own_kernel(family: type[Format]) -> bool:
    return any(k.format is family and not is_reference(k) for k in sparsekit.kernels.KERNELS)
