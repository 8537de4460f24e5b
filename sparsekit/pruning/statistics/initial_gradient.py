"""The gradient of the loss before training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.statistics.backward import differentiable, mean_gradients
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class InitialGradient(ModelStatistic):
    """The gradient as a model sees it whose running averages mean nothing yet: BatchNorm normalises by the batch.

    Args:
        mean: over the batches, ``weight.shape``.
        total: sum of ``|w * mean|`` over all targets, of this parameter and the others.
    """

    mean: Tensor
    total: float

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        with differentiable(view, batch_statistics=True) as weights:
            means = mean_gradients(view, weights)
        total = sum(
            float((weight.detach().double() * mean.double()).abs().sum()) for weight, mean in zip(weights, means)
        )
        return {target.name: cls(mean, total) for target, mean in zip(view.targets, means)}
