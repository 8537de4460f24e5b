"""What of a layer stays, once its share of the budget is known."""

from __future__ import annotations

from torch import Tensor

from sparsekit.patterns import Pattern


def selected(scores: Tensor, pattern: Pattern, share: float, by_row: bool = False) -> Tensor:
    """The pattern's choice; a share of 1, which only a global budget gives, removes every unit."""
    if share < 1.0 or pattern.fixes_sparsity:
        return pattern.select(scores, None if pattern.fixes_sparsity else share, by_row=by_row)
    high, wide = pattern.grid(tuple(scores.shape))
    return pattern.choose(scores, high * wide)
