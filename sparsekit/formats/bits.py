"""Rows of small numbers packed into bytes, the lowest bit first.

Bit ``j`` of a row's stream is bit ``j % 8`` of byte ``j // 8``.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor


def pack_fields(fields: Tensor, bits: int) -> Tensor:
    """Pack uint8 ``fields`` ``(rows, n)``, each below ``2**bits``, into uint8 ``(rows, ceil(n * bits / 8))``."""
    rows, n = fields.shape
    if bits == 0:
        return fields.new_empty(rows, 0)
    if 8 % bits:  # a field may straddle two bytes: go through single bits
        shifts = torch.arange(bits, dtype=torch.uint8, device=fields.device)
        return pack_fields(((fields.unsqueeze(2) >> shifts) & 1).reshape(rows, n * bits), 1)
    words = F.pad(fields, (0, -n % (8 // bits)))
    if bits == 1 and sys.byteorder == "little":  # eight at a time, as one number of 64 bits
        eight = words.reshape(-1).view(torch.int64)
        for shift in (7, 14, 28):
            eight = eight | (eight >> shift)
        return eight.to(torch.uint8).reshape(rows, words.shape[1] // 8)
    while bits < 8:  # fold neighbours into one word of twice the bits
        words = words[:, 0::2] | (words[:, 1::2] << bits)
        bits *= 2
    return words


def unpack_fields(packed: Tensor, bits: int, n: int) -> Tensor:
    """Inverse of :func:`pack_fields`: the first ``n`` fields of each row, uint8 ``(rows, n)``."""
    rows = packed.shape[0]
    if bits == 0:
        return packed.new_zeros(rows, n)
    if 8 % bits:
        shifts = torch.arange(bits, dtype=torch.uint8, device=packed.device)
        return (unpack_fields(packed, 1, n * bits).reshape(rows, n, bits) << shifts).sum(dim=2, dtype=torch.uint8)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    fields: Tensor = (packed.unsqueeze(2) >> shifts) & (2**bits - 1)
    return fields.reshape(rows, packed.shape[1] * (8 // bits))[:, :n]
