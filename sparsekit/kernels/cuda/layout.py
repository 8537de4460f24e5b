"""Two-of-four weights in the order in which the kernels read them: panels of values and metadata, as bytes.

``csrc/cuda/nm_places.h`` says what a kernel reads where; a test compares the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.formats.bits import unpack_fields
from sparsekit.kernels.cuda.tiles import TILE_ROWS

FIRST_TWO = 0b0100
"""The metadata of a group whose values stand at positions 0 and 1."""

MOST_TAIL = 2
"""Dense columns at the end that fit the one group that they begin."""


def mma_panels(packed: NMPacked) -> Tensor:
    """Return what mma.sp reads: uint8 ``(16 rows, 128 columns, 2304)`` for each 16 rows and 128 columns.

    A panel holds for each of four steps of 32 columns the fragment of each lane, and then two words of metadata of
    each lane. In a fragment of lane ``4 g + t``, the four registers are rows ``g`` and ``g + 8`` at kept values
    ``2 t`` and ``2 t + 1`` of the step, and the same rows eight values on.
    """
    values, codes = _padded(packed, 128)
    rows, kept = values.shape
    row_blocks, blocks = rows // 16, kept // 64
    # (row block, half of it, g, block, step, half of the step, t, pair)
    fragments = values.view(row_blocks, 2, 8, blocks, 4, 2, 4, 2).permute(0, 3, 4, 2, 6, 5, 1, 7)
    value_bytes = fragments.reshape(row_blocks, blocks, -1).view(torch.uint8)
    words = _words(codes).view(row_blocks, blocks, 2, 32).transpose(2, 3)  # both words of a lane side by side
    return torch.cat([value_bytes, words.reshape(row_blocks, blocks, -1).view(torch.uint8)], dim=2)


def wgmma_panels(packed: NMPacked) -> Tensor:
    """Return what wgmma.sp reads: uint8 ``(128 rows, 64 columns, 9216)`` for each 128 rows and 64 columns.

    A panel holds 128 rows of 32 kept values, whose four chunks of 16 bytes are exchanged as the 64-byte swizzle does,
    and then a word of metadata for each of 256 threads.
    """
    values, codes = _padded(packed, 64)
    rows, kept = values.shape
    row_tiles, blocks = rows // TILE_ROWS, kept // 32
    chunks = values.view(row_tiles, TILE_ROWS, blocks, 4, 8).transpose(1, 2)
    row = torch.arange(TILE_ROWS, device=values.device)
    source = torch.arange(4, device=values.device) ^ (row // 2 % 4).unsqueeze(1)
    swizzled = chunks[:, :, row.unsqueeze(1), source]
    value_bytes = swizzled.reshape(row_tiles, blocks, -1).view(torch.uint8)
    words = _words(codes).view(row_tiles, TILE_ROWS // 16, blocks, 32).transpose(1, 2)
    return torch.cat([value_bytes, words.reshape(row_tiles, blocks, -1).view(torch.uint8)], dim=2)


def _padded(packed: NMPacked, columns: int) -> tuple[Tensor, Tensor]:
    """Return the values ``(rows, kept)`` and the code of each group ``(rows, groups)``, int32, padded to whole tiles.

    The code is the position of the first value and, two bits up, that of the second. The tail becomes a group of its
    own. Padding is +0.0 at positions 0 and 1: codes of equal positions are not allowed.
    """
    groups = packed.columns // 4
    positions = unpack_fields(packed.positions, 2, 2 * groups).view(packed.rows, groups, 2).to(torch.int32)
    codes = positions[:, :, 0] | positions[:, :, 1] << 2
    values = torch.cat([packed.values, packed.tail], dim=1)
    all_groups = -(-packed.columns // columns) * columns // 4
    rows = packed.rows + -packed.rows % TILE_ROWS
    values = F.pad(values, (0, all_groups * 2 - values.shape[1], 0, rows - packed.rows))
    return values, F.pad(codes, (0, all_groups - groups, 0, rows - packed.rows), value=FIRST_TWO)


def _words(codes: Tensor) -> Tensor:
    """Return the metadata words of each 16 rows and 64 columns by lane, int32 ``(row blocks, blocks, 32)``.

    The word of lane ``4 g + t`` holds the codes of columns ``16 t`` to ``16 t + 15``: of row ``g`` in its low half, of
    row ``g + 8`` in its high half, the lowest column first. So lanes with ``t`` of 0 and 1 hold the first 32 columns
    and serve selector 0; those with 2 and 3 hold the others and serve selector 1.
    """
    rows, groups = codes.shape
    shifts = torch.arange(0, 16, 4, dtype=torch.int32, device=codes.device)
    # (row block, half of it, g, block, t, group)
    quads = codes.view(rows // 16, 2, 8, groups // 16, 4, 4)
    halves = (quads << shifts).sum(dim=5, dtype=torch.int32)
    words = halves[:, 0] | halves[:, 1] << 16
    return words.permute(0, 2, 1, 3).reshape(rows // 16, groups // 16, 32)
