"""Keep the feature maps that the loss would miss, to first order, relative to their layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import GateGradients, LayerStatistics, Needs


@dataclass(frozen=True)
class TaylorActivation(Criterion):
    """``|mean over positions of a * dL/da|`` of each output ``a``, averaged over samples; its L2 norm per layer is 1.

    The output is what the layer returns, bias included; behind a ReLU it is the same (``a * dL/da`` is 0 where it
    cuts). Made for patterns whose units are whole filters; the weights of a filter share its score by magnitude.

    Args:
        flops_penalty: subtracted per million floating-point operations (a multiply-add is two) that the filter costs
            for one sample, so that expensive layers lose more under ``Global``.

    Raises:
        PruningError: the penalty is negative.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2016, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", section 2.2.
    """

    flops_penalty: float = 0.0
    needs: ClassVar[Needs] = (GateGradients,)

    def __post_init__(self) -> None:
        if not self.flops_penalty >= 0:
            raise PruningError(f"TaylorActivation: expected flops_penalty >= 0, got {self.flops_penalty}")

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each filter's score, shared out over its weights; see :meth:`Criterion.score`."""
        return share_by_magnitude(self.filters(weight, stats[GateGradients]), weight)

    def filters(self, weight: Tensor, gates: GateGradients) -> Tensor:
        """Return the score of each filter, ``(out,)``, float64; of norm 1 without a penalty."""
        parts = torch.split(gates.samples.double(), list(gates.sizes))
        means = [part.abs() / max(1.0, positions) for part, positions in zip(parts, gates.positions)]
        scores = torch.cat(means).mean(dim=0)
        norm = torch.linalg.vector_norm(scores)
        operations: float = 2.0 * weight[:1].numel() * sum(gates.positions) / len(gates.positions)
        normed: Tensor = scores / norm.where(norm > 0, 1.0)
        return normed - self.flops_penalty * operations / 1e6
