"""The weight of a convolution in the steps of a matrix product: which channels at which taps, and their values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import BlockCSR
from sparsekit.formats.offsets import offsets_from_counts
from sparsekit.kernels.convolution import Convolution

PIECE = 16
"""Consecutive input channels of one tap that are read or left out together: 32 bytes, what memory gives at once."""

MOST_SIDE = 15
"""Taps of the largest kernel in one direction: 4 bits hold their number, and one more that means no tap."""

MOST_CHANNELS = 1 << 23
"""The first channel of a piece has the bits that are left."""

NOTHING = 15 << 27 | 15 << 23
"""A piece whose taps fall onto no image."""


@dataclass(frozen=True)
class Steps:
    """What some outputs each read, in steps of ``inner`` columns made of pieces; the outputs that read most come first.

    Args:
        values: ``(steps, outputs, inner)``; 0 where nothing is stored.
        pieces: int32, ``inner / PIECE`` of them a step and as many again at the end, which are loaded and not used:
            ``tap_row << 27 | tap_column << 23 | first channel``. Tap 15, 15 fills a step up and reads nothing.
        offsets: int32 ``(tiles + 1,)``, where the steps of each tile of outputs begin.
        firsts: int32 ``(tiles,)``, the first output of each.
    """

    values: Tensor
    pieces: Tensor
    offsets: Tensor
    firsts: Tensor

    @classmethod
    def cut(cls, packed: BlockCSR, convolution: Convolution, outputs: int, inner: int) -> Steps:
        """Lay the weight out anew for tiles of ``outputs`` channels.

        A piece belongs to a tile where the format stores a weight of it for one of the outputs, whatever its value.
        """
        ones = packed.from_parts({**packed.tensors(), "values": torch.ones_like(packed.values)}, packed.integers())
        weight, stored = (_by_piece(part.unpack(), convolution, outputs) for part in (packed, ones))
        wanted = (stored != 0).any(dim=4).any(dim=3)
        order = wanted.flatten(1).sum(dim=1).argsort(descending=True, stable=True)
        tile, tap, block = wanted[order].nonzero(as_tuple=True)

        per_step, wide = inner // PIECE, convolution.kernel_size[1]
        held = torch.bincount(tile, minlength=len(order))
        offsets = offsets_from_counts(-(-held // per_step))
        within = torch.arange(len(tile), device=tile.device) - offsets_from_counts(held)[tile]
        at, steps = offsets[tile].long() * per_step + within, int(offsets[-1])

        values = weight.new_zeros(steps * per_step, outputs, PIECE)
        values[at] = weight[order[tile], tap, block]
        values = values.reshape(steps, per_step, outputs, PIECE).transpose(1, 2)
        pieces = at.new_full(((steps + 1) * per_step,), NOTHING)
        pieces[at] = (tap // wide << 27) | (tap % wide << 23) | (block * PIECE)
        return cls(values.reshape(steps, outputs, inner), pieces.int(), offsets, (order * outputs).int())


def _by_piece(matrix: Tensor, convolution: Convolution, outputs: int) -> Tensor:
    """The matrix ``(out, in * taps)``, filled up with zeros, as ``(tiles, taps, pieces, outputs, PIECE)``."""
    rows, channels = matrix.shape[0], convolution.in_channels
    kernels = matrix.reshape(rows, channels, -1)
    filled = F.pad(kernels, (0, 0, 0, -channels % PIECE, 0, -rows % outputs))
    return filled.reshape(filled.shape[0] // outputs, outputs, -1, PIECE, kernels.shape[2]).permute(0, 4, 2, 1, 3)
