"""The points of simple sets, or of simple costs, that are nearest to a given one."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_threshold(values: Tensor, threshold: float) -> Tensor:
    """Return ``values`` where they are larger than ``threshold`` in magnitude, else 0.

    With ``sqrt(2 * alpha / mu)`` it minimises ``alpha * count(x != 0) + mu / 2 * |values - x|^2`` over ``x``.
    """
    return values.masked_fill(values.abs() <= threshold, 0.0)


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Return ``values``, nearer to 0 by ``threshold``, or 0.

    With ``alpha / mu`` it minimises ``alpha * sum |x| + mu / 2 * |values - x|^2`` over ``x``.
    """
    return values.sign() * (values.abs() - threshold).clamp_min(0.0)


def onto_l1_ball(values: Tensor, radius: float) -> Tensor:
    """Return the nearest point to ``values`` whose sum of magnitudes is at most ``radius``, which is not negative.

    It is a soft threshold; which, follows from the magnitudes in falling order. Cost: one sort.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra 2008, "Efficient Projections onto the l1-Ball for Learning in High
    Dimensions", figure 1.
    """
    sizes = values.double().abs().flatten()
    if float(sizes.sum()) <= radius:
        return values
    falling = sizes.sort(descending=True).values
    excess = falling.cumsum(0) - radius
    thresholds = excess / torch.arange(1, len(falling) + 1, device=values.device)
    last = int((falling > thresholds).sum()) - 1
    return soft_threshold(values, float(thresholds[last]) if last >= 0 else float("inf"))
