"""The ways to run one layer that are worth measuring."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.formats import FORMATS, Dense, Format
from sparsekit.kernels.base import Kernel, Problem
from sparsekit.kernels.reference import REFERENCE_KERNELS
from sparsekit.mask import Mask


def candidates(weight: Tensor, mask: Mask, batch: int) -> Iterator[tuple[Kernel, Format]]:
    """Yield every kernel that could be the fastest for a layer, with the weight packed for it.

    These are the dense kernels, and where the mask removes anything the sparse ones that do not refuse. The reference
    of a sparse format unpacks and is never faster than dense, so it is left out.

    Args:
        weight: ``(out, in)``.
        mask: what stays.
        batch: tokens.
    """
    for family in FORMATS:
        sparse = family is not Dense
        kernels = [k for k in sparsekit.kernels.KERNELS if k.format is family and not (sparse and is_reference(k))]
        if not kernels or family.accepts(mask) is not None or (sparse and mask.sparsity == 0.0):
            continue
        packed = family.pack(weight, mask)
        problem = Problem(packed, batch, torch.get_num_threads())
        yield from ((kernel, packed) for kernel in kernels if kernel.refuses(problem) is None)


def is_reference(kernel: Kernel) -> bool:
    """Whether ``kernel`` is one of :data:`~sparsekit.kernels.reference.REFERENCE_KERNELS`."""
    return kernel in REFERENCE_KERNELS
