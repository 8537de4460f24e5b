"""The Hessian of the loss times its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.statistics.backward import (
    gradients,
    hessian_product,
    loss_of,
    mean_gradients,
    twice_differentiable,
)
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class HessianGradient(ModelStatistic):
    """``H g`` of the mean loss over the batches, ``weight.shape``; BatchNorm normalises by the batch.

    ``g`` and ``H`` are those of the pruned weights alone, all layers together. A first pass finds ``g``, a second
    differentiates ``g_fixed . g``.
    """

    product: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward twice and backward three times; see :meth:`ModelStatistic.collect`."""
        count = len(view.batches)
        with twice_differentiable(view, batch_statistics=True) as weights:
            fixed = mean_gradients(view, weights)
            total = [weight.detach() * 0 for weight in weights]
            for index in range(count):
                slopes = gradients(view, loss_of(view, index), weights, create_graph=True)
                torch._foreach_add_(total, hessian_product(view, slopes, weights, fixed))
        return {target.name: cls(summed / count) for target, summed in zip(view.targets, total)}
