"""The weight of a convolution cut into steps, put together again."""

from __future__ import annotations

import pytest
import torch

from sparsekit.formats import BlockCSR
from sparsekit.kernels import Convolution
from sparsekit.kernels.triton.conv_steps import NOTHING, PIECE, Steps
from sparsekit.mask import Mask
from sparsekit.patterns import AllTaps, Block, KernelSlice, PerTap
from tests.kernels.triton.convolutions import packed_of

CASES = (
    (PerTap(Block(16, 16)), Convolution(64, (3, 3)), 48),
    (PerTap(Block(24, 4)), Convolution(33, (3, 2)), 50),
    (AllTaps(Block(32, 8)), Convolution(40, (2, 3)), 64),
    (Block(16, 12), Convolution(32, (1, 1)), 40),
    (Block(16, 7), Convolution(20, (3, 3)), 17),
    (KernelSlice(), Convolution(32, (3, 3)), 16),
)
every_case = pytest.mark.parametrize(("pattern", "convolution", "rows"), CASES, ids=[str(case[0]) for case in CASES])


def tiles_of(steps, outputs):
    """For each tile its first output, its steps, and ``(tap row, tap column, channel)`` of its pieces."""
    per_step = steps.values.shape[2] // PIECE
    for tile, first in enumerate(steps.firsts.tolist()):
        begin, end = steps.offsets[tile : tile + 2].tolist()
        pieces = steps.pieces[begin * per_step : end * per_step].tolist()
        yield first, (begin, end), [(p >> 27, (p >> 23) & 15, p & 0x7FFFFF) if p != NOTHING else None for p in pieces]


@pytest.mark.parametrize(("outputs", "inner"), [(16, 16), (32, 64), (128, 32)])
@every_case
def test_steps_hold_every_weight_once(pattern, convolution, rows, outputs, inner):
    packed, weight = packed_of(pattern, convolution, rows)
    steps = Steps.cut(packed, convolution, outputs, inner)
    found = torch.zeros(rows + outputs, convolution.in_channels + PIECE, *convolution.kernel_size)
    for first, (begin, _), pieces in tiles_of(steps, outputs):
        for at, piece in enumerate(pieces):
            lane = at * PIECE % inner
            values = steps.values[begin + at * PIECE // inner, :, lane : lane + PIECE]
            if piece is None:
                assert not values.any()
            else:
                row, column, channel = piece
                place = found[first : first + outputs, channel : channel + PIECE, row, column]
                assert not place.any()
                place += values
    assert torch.equal(found[:rows, : convolution.in_channels], weight)
    assert not found[rows:].any()
    assert not found[:, convolution.in_channels :].any()
    assert len(steps.pieces) == (len(steps.values) + 1) * inner // PIECE


@every_case
def test_tiles_hold_what_is_stored_for_them_and_the_longest_come_first(pattern, convolution, rows):
    packed, weight = packed_of(pattern, convolution, rows, sparsity=0.8)
    counts = []
    for first, (begin, end), pieces in tiles_of(Steps.cut(packed, convolution, 16, 32), 16):
        own = weight[first : first + 16]
        wanted = {
            (row, column, channel)
            for row in range(own.shape[2])
            for column in range(own.shape[3])
            for channel in range(0, own.shape[1], PIECE)
            if own[:, channel : channel + PIECE, row, column].any()
        }
        held = [piece for piece in pieces if piece is not None]
        assert len(held) == len(wanted)
        assert set(held) == wanted
        assert end - begin == -(-len(held) // 2)
        counts.append(len(held))
    assert counts == sorted(counts, reverse=True)


def test_stored_zeros_keep_their_place():
    """A weight that is trained may pass through zero; which channels are read does not depend on it."""
    convolution, pattern = Convolution(16, (3, 3)), PerTap(Block(16, 16))
    packed = BlockCSR.pack(torch.zeros(16, 16, 3, 3), Mask(torch.ones(16, 16, 3, 3, dtype=torch.bool), pattern))
    assert len(Steps.cut(packed, convolution, 16, 16).values) == 9


def test_nothing_stored_is_no_step():
    convolution, pattern = Convolution(16, (3, 3)), PerTap(Block(16, 16))
    keep = torch.zeros(16, 16, 3, 3, dtype=torch.bool)
    steps = Steps.cut(BlockCSR.pack(torch.ones(16, 16, 3, 3), Mask(keep, pattern)), convolution, 16, 64)
    assert steps.values.shape == (0, 16, 64)
    assert steps.pieces.tolist() == [NOTHING] * 4
    assert steps.offsets.tolist() == [0, 0]
