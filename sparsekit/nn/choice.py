"""Which format a layer takes when the caller names none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sparsekit.errors import FormatError
from sparsekit.formats import (
    CSR,
    Bitmask,
    BlockCSR,
    DeltaCSR,
    Dense,
    Format,
    NMPacked,
    Quantized,
    Refusal,
    format_named,
    stored_weights,
)
from sparsekit.kernels import gpu
from sparsekit.kernels.base import RunsT
from sparsekit.kernels.clock import clock_of
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block

BUDGET_S = 0.2
"""Seconds that choosing a format by measurement takes."""
THIN_ROWS = 8
"""Rows of a block from which it is stored as a block on a CPU."""

ROUNDED = "expected weights that can be trained, and those of {} are rounded to 8 bits"


def by_rule(mask: Mask, trainable: bool = False) -> type[Format]:
    """Return the format that usually is the fastest for ``mask`` on the device that it is on.

    A Block mask goes to block CSR, but on a CPU to CSR where its blocks are thin and nothing is trained: they would
    leave most lanes of a vector of outputs empty, and CSR loads a column of two rows once. Else on a CPU the sparsity
    decides: CSR from 0.7, bitmask from 0.4, dense below. On a GPU an NM(2, 4) mask goes to the N:M format, and the
    others to short distances from 0.9, where they are smaller than a bitmask, bitmask from 0.4, dense below. A
    trainable weight that has zeros takes bitmask instead of dense, which would not keep them, and of N:M, which may
    store more.

    On a GPU bitmask and distances are for small batches: unstructured zeros have no kernel there at a batch of 128 or
    more, nor have patterns and GPUs that every kernel refuses. Such calls run dense, by a copy that is unpacked once.
    """
    if isinstance(mask.pattern, Block):
        thin = mask.pattern.rows < THIN_ROWS and not (trainable or _on_gpu(mask))
        return CSR if thin else BlockCSR
    sparsity, on_gpu = mask.sparsity, _on_gpu(mask)
    if on_gpu and mask.pattern == NM(2, 4) and not trainable:
        return NMPacked
    if sparsity >= 0.7 and not on_gpu:
        return CSR
    if on_gpu and sparsity >= 0.9 and not trainable:
        return DeltaCSR
    return Bitmask if sparsity >= 0.4 or (trainable and sparsity) else Dense


def conv_by_rule(mask: Mask, trainable: bool = False) -> type[Format]:
    """Return the format that usually is the fastest for the ``mask`` of a convolution on the device that it is on.

    What block CSR stores, blocks and whole kernels, goes there; else on a CPU CSR from a sparsity of 0.6, and dense
    below, and on a GPU dense, which has no other kernel for convolutions. A trainable weight that has zeros takes CSR
    instead of dense, which would not keep them.
    """
    if BlockCSR.accepts(mask) is None:
        return BlockCSR
    if trainable and mask.sparsity:
        return CSR
    return CSR if mask.sparsity >= 0.6 and not _on_gpu(mask) else Dense


def by_measurement(
    ways: Iterable[tuple[RunsT, Format]],
    call: Callable[[RunsT, Format], Callable[[], object]],
    mask: Mask,
    trainable: bool = False,
) -> tuple[Format, RunsT]:
    """Return the packed weight and the kernel that are the fastest on this machine.

    Of a trainable weight only the formats count that can train the mask.

    Args:
        ways: kernels with the weight packed for each.
        call: makes the call that is timed.
        mask: what stays.
        trainable: whether the weight is.

    Raises:
        FormatError: no format can.
    """
    found = {kernel.name: (packed, kernel) for kernel, packed in ways if not (trainable and cannot_train(packed, mask))}
    if not found:
        raise FormatError(f"expected a format that can train {mask} and has a kernel for this problem, found none")
    clock = clock_of(mask.keep.device)
    before = clock.eviction(clock.evicted, mask.keep)
    with torch.no_grad():
        calls = {name: call(kernel, packed) for name, (packed, kernel) in found.items()}
        return found[next(iter(fastest(calls, BUDGET_S, before, clock)))]


def pack_as(format: type[Format] | str, weight: Tensor, mask: Mask, trainable: bool = False) -> Format:
    """Return the weight packed in a format, given as such or by name.

    Raises:
        FormatError: the format is unknown, or cannot store the mask, or cannot train it where ``trainable``.
    """
    family = format_named(format) if isinstance(format, str) else format
    packed = family.pack(weight, mask)
    if trainable and (reason := cannot_train(packed, mask)):
        raise FormatError(f"{packed.name}: cannot train {mask}: {reason}")
    return packed


def cannot_train(packed: Format, mask: Mask) -> Refusal | None:
    """Return None where ``packed`` stores the kept weights of ``mask`` and no others, else the reason why not."""
    if isinstance(packed, Quantized):
        return Refusal(ROUNDED.format(packed.name))
    stored = stored_weights(packed)
    if stored == mask.nnz:
        return None
    return Refusal(f"{packed} stores {stored} weights, and the mask keeps {mask.nnz}: training would fill the others")


def _on_gpu(mask: Mask) -> bool:
    return mask.keep.device.type in gpu.DEVICES
