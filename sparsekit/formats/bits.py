"""Rows of flags packed into words: flag ``j`` of a row is bit ``j % width`` of the row's word ``j // width``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WIDTHS = {torch.uint8: 8, torch.uint16: 16}


def pack_bits(flags: Tensor, dtype: torch.dtype) -> Tensor:
    """Pack bool ``flags`` ``(rows, n)`` into ``(rows, ceil(n / width))`` words of ``dtype``; spare bits are 0."""
    rows, n = flags.shape
    width = _WIDTHS[dtype]
    words = -(-n // width)
    padded = F.pad(flags, (0, words * width - n)) if n % width else flags
    shifts = torch.arange(width, dtype=torch.int32, device=flags.device)
    shifted = padded.reshape(rows, words, width).to(torch.int32) << shifts
    return shifted.sum(dim=2, dtype=torch.int32).to(dtype)


def unpack_bits(words: Tensor, n: int) -> Tensor:
    """Inverse of :func:`pack_bits`: the first ``n`` flags of each row, bool ``(rows, n)``."""
    width = _WIDTHS[words.dtype]
    shifts = torch.arange(width, dtype=torch.int32, device=words.device)
    flags = (words.to(torch.int32).unsqueeze(2) >> shifts) & 1
    return flags.reshape(words.shape[0], words.shape[1] * width)[:, :n].bool()
