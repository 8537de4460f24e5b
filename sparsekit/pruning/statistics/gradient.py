"""The gradient of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.statistics.backward import differentiable, mean_gradients
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class Gradient(ModelStatistic):
    """The mean of the loss's gradient over the batches, ``weight.shape``, in eval mode."""

    mean: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        with differentiable(view) as weights:
            means = mean_gradients(view, weights)
        return {target.name: cls(mean) for target, mean in zip(view.targets, means)}
