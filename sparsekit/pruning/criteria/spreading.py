"""From the score of a filter to scores of its weights."""

from __future__ import annotations

from torch import Tensor

from sparsekit.patterns.base import as_matrix


def share_by_magnitude(filters: Tensor, weight: Tensor) -> Tensor:
    """Share out the score of each filter ``(out,)`` over its weights in proportion to ``|w|``, in float64.

    A unit's score is the sum over its weights, so patterns whose units are whole filters rank the filters by exactly
    these scores, and finer ones rank the weights inside a filter by magnitude instead of by index. A filter of zeros
    has nothing to lose: it scores 0.
    """
    sizes = as_matrix(weight).double().abs()
    largest = sizes.amax(dim=1, keepdim=True) if sizes.numel() else sizes.sum(dim=1, keepdim=True)
    sizes = sizes / largest.where(largest > 0, 1.0)
    total = sizes.sum(dim=1, keepdim=True)
    return (filters.double()[:, None] * sizes / total.where(total > 0, 1.0)).reshape(weight.shape)
