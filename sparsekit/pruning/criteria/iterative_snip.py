"""Keep the connections that the loss is sensitive to, a part of the way at a time."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.snip import SNIP


@dataclass(frozen=True)
class IterativeSNIP(SNIP):
    """:class:`SNIP` in rounds: each scores the pruned model, and what has gone stays gone.

    The density falls geometrically from round to round. A pattern that fixes its sparsity takes one round.

    Args:
        rounds: 1 is SNIP.

    Raises:
        PruningError: ``rounds`` is smaller than 1.

    Source: de Jorge, Sanyal, Behl, Torr, Rogez, Dokania 2020, "Progressive Skeletonization: Trimming More Fat from a
    Network at Initialization".
    """

    rounds: int = 10

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise PruningError(f"{type(self).__name__}: expected rounds >= 1, got {self.rounds}")
