"""The gradient of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.statistics.backward import differentiable, gradients, loss_of
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class Gradient(ModelStatistic):
    """The mean of the loss's gradient over the batches, ``weight.shape``, in eval mode."""

    mean: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        with differentiable(view) as weights:
            total = [weight.detach() * 0 for weight in weights]
            for index in range(len(view.batches)):
                torch._foreach_add_(total, gradients(view, loss_of(view, index), weights))
        return {target.name: cls(summed / len(view.batches)) for target, summed in zip(view.targets, total)}
