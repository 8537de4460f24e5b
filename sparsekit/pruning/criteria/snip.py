"""Keep the connections that the loss is sensitive to, before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import InitialGradient, LayerStatistics, Needs


@dataclass(frozen=True)
class SNIP(Criterion):
    """``|dL/dc|`` of a switch ``c = 1`` on each weight, which is ``|w * dL/dw|``, over its sum over all layers.

    The gradient is the mean over the batches, with BatchNorm normalising by the batch. Meant for a model before
    training whose weights were drawn with a variance that fits their fan-in, one batch, and ``Global``.

    Source: Lee, Ajanthan, Torr 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity".
    """

    needs: ClassVar[Needs] = (InitialGradient,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the share of each weight in the model's sensitivity; see :meth:`Criterion.score`."""
        gradient = stats[InitialGradient]
        sensitivity = (weight.double() * gradient.mean.double()).abs()
        return sensitivity / gradient.total if gradient.total else sensitivity
