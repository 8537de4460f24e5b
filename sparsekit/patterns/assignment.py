"""Choose n in each row and column of many small square blocks at once: a transportation problem per block."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-12
"""Gains below this fraction of a block's largest score are rounding errors."""


def greedily(blocks: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Take the highest score that has room in its row and column, then fill up the rows and columns left open.

    Args:
        blocks: ``(blocks, m, m)``, finite float64 scores.
        n: of each row and column.

    Returns:
        bool ``(blocks, m, m)`` with exactly ``n`` in each row and column, and bool ``(blocks,)``: where filling up lost
        some of the score.
    """
    count, m, _ = blocks.shape
    every = torch.arange(count, device=blocks.device)
    keep = torch.zeros_like(blocks, dtype=torch.bool)
    room = torch.full((2, count, m), n, device=blocks.device)
    for place in blocks.flatten(1).argsort(dim=1, descending=True, stable=True).T:
        row, column = place // m, place % m
        fits = (room[0, every, row] > 0) & (room[1, every, column] > 0)
        keep[every, row, column] = fits
        room[0, every, row] -= fits.long()
        room[1, every, column] -= fits.long()
    before = _retained(blocks, keep)
    _fill(blocks, keep, room)
    return keep, _retained(blocks, keep) < before


def _fill(blocks: Tensor, keep: Tensor, room: Tensor) -> None:
    """Fill up every open row and column in place: add two places, remove the one across from both.

    Where row ``i`` and column ``j`` are open, greedy has kept ``(i, j)`` itself, and some full row ``k`` and column
    ``l`` lack ``(i, l)`` and ``(k, j)`` and have ``(k, l)``: all places that ``i`` and ``j`` lack lie in full columns
    and rows, and there are too many of them to have nothing in common.
    """
    left = room[0].any(dim=1).nonzero().squeeze(1)
    while len(left):
        scores, kept = blocks[left], keep[left]
        each = torch.arange(len(left), device=blocks.device)
        i, j = ((side[left] > 0).int().argmax(dim=1) for side in room)
        gain = scores[each, i][:, None, :] + scores[each, :, j][:, :, None] - scores
        able = ~kept[each, i][:, None, :] & ~kept[each, :, j][:, :, None] & kept
        best = gain.masked_fill(~able, -torch.inf).flatten(1).argmax(dim=1)
        k, column = best // blocks.shape[2], best % blocks.shape[2]
        keep[left, i, column] = True
        keep[left, k, j] = True
        keep[left, k, column] = False
        room[0, left, i] -= 1
        room[1, left, j] -= 1
        left = left[room[0, left].any(dim=1)]


def improved(blocks: Tensor, keep: Tensor) -> Tensor:
    """Exchange places along cycles that gain until none is left: then each block retains the most there is.

    Row sums and column sums stay. That a choice without such a cycle is optimal is the optimality condition of min-cost
    flow.

    Args:
        blocks: ``(blocks, m, m)``, finite float64 scores.
        keep: bool ``(blocks, m, m)``, where to start.
    """
    keep = keep.clone()
    left = torch.arange(len(blocks), device=blocks.device)
    while len(left):
        scores, kept = blocks[left], keep[left]
        tolerance = TOLERANCE * scores.abs().amax(dim=(1, 2)).clamp(min=torch.finfo(scores.dtype).tiny)
        gain, column = _moves(scores, kept)
        last, before = _longest_walks(gain, tolerance)
        found = last >= 0
        changed = kept.clone()
        _exchange(changed, column, last.clamp(min=0), before)
        better = found & (_retained(scores, changed) > _retained(scores, kept))
        keep[left[better]] = changed[better]
        left = left[better]
    return keep


def _retained(blocks: Tensor, keep: Tensor) -> Tensor:
    return (blocks * keep).sum(dim=(1, 2))


def _moves(scores: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The best move between two rows: in one column, row ``i`` gets a place that row ``k`` gives up.

    Returns:
        its gain ``(blocks, i, k)``, minus infinity where there is none, and its column.
    """
    get = scores.masked_fill(keep, -torch.inf)
    give = (-scores).masked_fill(~keep, -torch.inf)
    best = (get[:, :, None, :] + give[:, None, :, :]).max(dim=3)
    return best.values, best.indices


def _longest_walks(gain: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Bellman and Ford's walks of the highest gain, from anywhere.

    Returns:
        a row on a cycle that gains, ``(blocks,)``, -1 where there is none; and the row before each row on its walk.
    """
    count, m, _ = gain.shape
    total = gain.new_zeros(count, m)
    before = torch.zeros(count, m, dtype=torch.long, device=gain.device)
    for _ in range(m):
        best = (total[:, :, None] + gain).max(dim=1)
        longer = best.values > total + tolerance[:, None]
        total = torch.where(longer, best.values, total)
        before = torch.where(longer, best.indices, before)
    # A walk of m moves through m rows has met one twice; going back as many leads onto the cycle.
    last = longer.int().argmax(dim=1)
    for _ in range(m):
        last = before.gather(1, last[:, None]).squeeze(1)
    return torch.where(longer.any(dim=1), last, -1), before


def _exchange(keep: Tensor, column: Tensor, last: Tensor, before: Tensor) -> None:
    """Make all moves of the cycle through row ``last`` of each block, in place."""
    each = torch.arange(len(keep), device=keep.device)
    row, running = last, torch.ones_like(last, dtype=torch.bool)
    for _ in range(keep.shape[1]):
        previous = before[each, row]
        where = column[each, previous, row]
        keep[each, previous, where] = torch.where(running, True, keep[each, previous, where])
        keep[each, row, where] = torch.where(running, False, keep[each, row, where])
        row = previous
        running = running & (row != last)
