"""Packing some rows at a time, so that what is made on the way stays in the caches and takes no memory to speak of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsekit.formats.offsets import column_dtype, offsets_from_counts

STRIP_WEIGHTS = 2**18
"""Weights of a strip: its 64-bit indices fill the second-level cache."""


def strips(rows: int, columns: int, step: int = 1) -> Iterator[slice]:
    """Cut the rows of a matrix ``(rows, columns)`` into strips of a multiple of ``step``; no rows are one strip."""
    high = max(1, STRIP_WEIGHTS // max(1, columns) // step) * step
    return (slice(first, min(rows, first + high)) for first in range(0, max(1, rows), high))


def kept_rows(matrix: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gather what the contiguous bool matrix ``keep`` keeps, row by row.

    Returns:
        Values ``(nnz,)``; their columns ``(nnz,)``, as :func:`~sparsekit.formats.offsets.column_dtype` stores them; and
        row offsets ``(rows + 1,)``.
    """
    rows, columns = matrix.shape
    values, indices, counts = [], [], []
    for strip in strips(rows, columns):
        part = matrix[strip]
        place = keep[strip].reshape(-1).nonzero().squeeze(1)
        edges = torch.arange(part.shape[0] + 1, device=place.device) * columns
        counts.append(torch.searchsorted(place, edges).diff())
        values.append(part.reshape(-1)[place])
        place -= edges[:-1].repeat_interleave(counts[-1])
        indices.append(place.to(column_dtype(columns)))
    return torch.cat(values), joined(indices), offsets_from_counts(torch.cat(counts))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Lay tensors end to end, unsigned ones too, for which torch has few operations."""
    dtype = parts[0].dtype
    if dtype != torch.uint16:
        return torch.cat(list(parts))
    return torch.cat([part.view(torch.int16) for part in parts]).view(dtype)
