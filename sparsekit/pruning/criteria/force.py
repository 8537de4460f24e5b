"""Keep the connections that the pruned model's loss would be sensitive to, were they there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekit.pruning.criteria.iterative_snip import IterativeSNIP


@dataclass(frozen=True)
class FORCE(IterativeSNIP):
    """Foresight connection sensitivity: ``|w * dL/dw|``, ``w`` dense and the gradient that of the pruned model.

    Each round chooses among all weights, so that those that went too early come back. The density falls geometrically
    from round to round. Scores are relative to the model's sensitivity as it is pruned, so they sum to 1 in the first
    round alone. A pattern that fixes its sparsity takes one round.

    Args:
        rounds: 1 is SNIP.

    Raises:
        PruningError: ``rounds`` is smaller than 1.

    Source: de Jorge, Sanyal, Behl, Torr, Rogez, Dokania 2020, "Progressive Skeletonization: Trimming More Fat from a
    Network at Initialization".
    """

    revives: ClassVar[bool] = True
