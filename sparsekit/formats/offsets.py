"""Row offsets: where each row's entries begin in a list of entries sorted by row; and the columns of entries."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import FormatError

OFFSET_DTYPES = (torch.int32, torch.int64)


def column_dtype(columns: int) -> torch.dtype:
    """What a column of a matrix of so many is stored in."""
    return torch.uint16 if columns <= 2**16 else torch.int32


def offsets_from_counts(counts: Tensor) -> Tensor:
    """Offsets ``(rows + 1,)`` of rows that hold ``counts`` ``(rows,)`` entries; int32, or int64 from 2**31 entries."""
    offsets = torch.cat([counts.new_zeros(1, dtype=torch.int64), counts.cumsum(0, dtype=torch.int64)])
    return offsets if int(offsets[-1]) >= 2**31 else offsets.to(torch.int32)


def row_of_each(offsets: Tensor) -> Tensor:
    """The row of each entry, int64 ``(entries,)``."""
    counts = offsets.diff().long()
    return torch.arange(counts.numel(), device=offsets.device).repeat_interleave(counts)


def check_offsets(offsets: Tensor, entries: int, what: str) -> None:
    """Raise :class:`FormatError` unless ``offsets`` begin at 0, never decrease and end at ``entries``."""
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != entries:
        raise FormatError(f"{what}: expected offsets from 0 to {entries}, got {first} to {last}")
    if bool((offsets.diff() < 0).any()):
        raise FormatError(
            f"{what}: expected offsets that never decrease, got {offsets[:-1][offsets.diff() < 0][0]} first"
        )


def check_indices(indices: Tensor, offsets: Tensor, limit: int, what: str) -> None:
    """Raise :class:`FormatError` unless ``indices`` are in [0, ``limit``) and ascend within each row."""
    wide = indices.long()
    outside = (wide < 0) | (wide >= limit)
    if bool(outside.any()):
        raise FormatError(f"{what}: expected indices in [0, {limit}), got {int(wide[outside][0])}")
    same_row = row_of_each(offsets).diff() == 0
    if bool((same_row & (wide.diff() <= 0)).any()):
        raise FormatError(f"{what}: expected indices that ascend within each row, got some that do not")
