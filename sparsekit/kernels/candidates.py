"""The ways to run one layer that are worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.formats import FORMATS, QUANTIZED_FORMATS, Dense, Format, Int8Dense
from sparsekit.kernels.base import Kernel, PackedProblem, Problem, Runs, RunsT
from sparsekit.kernels.conv_reference import REFERENCE_CONV_KERNELS
from sparsekit.kernels.convolution import ConvKernel, Convolution, ConvProblem, Size
from sparsekit.kernels.gpu import runs_elsewhere
from sparsekit.kernels.quantized import QUANTIZED_REFERENCE_KERNELS
from sparsekit.kernels.reference import REFERENCE_KERNELS
from sparsekit.mask import Mask

DENSE_FORMATS: tuple[type[Format], ...] = (Dense, Int8Dense)
"""Formats that store every weight: what a layer can run as whatever its zeros."""


def candidates(weight: Tensor, mask: Mask, batch: int, quantize: bool = False) -> Iterator[tuple[Kernel, Format]]:
    """Yield every kernel that could be the fastest for a linear layer, with the weight packed for it.

    These are the dense kernels, and where the mask removes anything the sparse ones that do not refuse. The reference
    of a sparse format unpacks and is never faster than dense, so it is left out.

    Args:
        weight: ``(out, in)``.
        mask: what stays.
        batch: tokens.
        quantize: whether weights, and activations with them, may be rounded to 8 bits.
    """
    threads = torch.get_num_threads()
    rounds = quantize and bool(weight.isfinite().all())
    families = (*FORMATS, *QUANTIZED_FORMATS) if rounds else FORMATS
    kernels = [kernel for kernel in sparsekit.kernels.KERNELS if kernel.format in families]
    return _packed_for(kernels, weight, mask, lambda packed: Problem(packed, batch, threads))


def conv_candidates(
    weight: Tensor, mask: Mask, convolution: Convolution, size: Size
) -> Iterator[tuple[ConvKernel, Format]]:
    """Yield every kernel that could be the fastest for a convolution, as :func:`candidates` does for a linear layer.

    Args:
        weight: ``(out, in / groups, kh, kw)``.
        mask: what stays.
        convolution: what is done with the weight.
        size: ``(N, H, W)`` of the input.
    """
    threads = torch.get_num_threads()
    return _packed_for(
        sparsekit.kernels.CONV_KERNELS, weight, mask, lambda packed: ConvProblem(packed, convolution, size, threads)
    )


def is_reference(kernel: Runs[Any]) -> bool:
    """Whether ``kernel`` is the reference of its format, which unpacks."""
    return kernel in (*REFERENCE_KERNELS, *REFERENCE_CONV_KERNELS, *QUANTIZED_REFERENCE_KERNELS)


def _packed_for(
    kernels: Iterable[RunsT], weight: Tensor, mask: Mask, problem: Callable[[Format], PackedProblem]
) -> Iterator[tuple[RunsT, Format]]:
    kernels = tuple(kernels)
    for family in (*FORMATS, *QUANTIZED_FORMATS):
        sparse = family not in DENSE_FORMATS
        own = [k for k in kernels if k.format is family and not (family is not Dense and is_reference(k))]
        own = [k for k in own if not runs_elsewhere(k.name, weight.device)]
        if not own or family.accepts(mask) is not None or (sparse and mask.sparsity == 0.0):
            continue
        packed = family.pack(weight, mask)
        yield from ((kernel, packed) for kernel in own if kernel.refuses(problem(packed)) is None)
