"""Which units go, which come, and how layers share what comes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.budget import fit, shared_out

LAST = 1e-9
"""Weight of a layer that gets its share only when the others are full, of theirs."""


def dropping(pattern: Pattern) -> Pattern:
    """Return what the units are that are dropped one by one: weights, where ``pattern`` fixes its own sparsity."""
    return Unstructured() if pattern.fixes_sparsity else pattern


def movable(pattern: Pattern, keep: Tensor) -> Tensor:
    """Return what of ``keep`` can be dropped: all but what the pattern cannot cover, and so keeps dense."""
    nothing = torch.zeros_like(pattern.pool(keep.double()), dtype=torch.bool)
    return keep & ~pattern.spread(nothing, tuple(keep.shape))


def units_in(pattern: Pattern, chosen: Tensor) -> int:
    """Count the units of :func:`dropping` in ``chosen``, which covers each whole or not at all."""
    return int((dropping(pattern).pool(chosen.double()) > 0).sum())


def lowest(pattern: Pattern, scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Return the ``count`` units of ``among`` with the lowest scores; of equal ones, those of the higher index.

    Args:
        pattern: whose units, by :func:`dropping`.
        scores: at least 0, of the weight's shape.
        among: bool, of the same shape.
        count: at most the units of ``among``.
    """
    wide = scores.double()
    return ~dropping(pattern).choose(wide.masked_fill(~among, _above(wide)), count) & among


def joined_by(pattern: Pattern, scores: Tensor, survivors: Tensor, count: int) -> Tensor:
    """Return ``survivors`` and the ``count`` units outside them with the highest scores: a legal mask.

    Where the pattern fixes its own sparsity, each of its groups is filled up instead, so the count is its own.

    Args:
        pattern: what the mask obeys.
        scores: at least 0, of the weight's shape.
        survivors: bool, of the same shape; part of a legal mask.
        count: at most the units outside.
    """
    wide = scores.double()
    outside = int((pattern.pool(survivors.double()) == 0).sum())
    return pattern.choose(wide.masked_fill(survivors, _above(wide)), outside - count)


def in_proportion(weights: Mapping[str, float], rooms: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out ``total`` in proportion to ``weights``, none above its room; the others take what finds none.

    Args:
        weights: at least 0, by name.
        rooms: the most that each can take.
        total: at most the sum of all rooms.

    Returns:
        whole numbers that add up to ``total``; the largest fractions are rounded up.
    """
    top = max(weights.values(), default=0.0) or 1.0
    slopes = {name: max(weights[name] / top, LAST) / room for name, room in rooms.items() if room}
    filled = fit(dict.fromkeys(slopes, 0.0), slopes, {name: float(rooms[name]) for name in slopes}, float(total))
    counts = shared_out([filled[name] * rooms[name] for name in slopes], total)
    return dict.fromkeys(rooms, 0) | dict(zip(slopes, counts))


def _above(scores: Tensor) -> float:
    """A number above every sum of ``scores``."""
    return (float(scores.max()) if scores.numel() else 0.0) * (scores.numel() + 1) or 1.0
