"""The smoothed square of the gradient of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.statistics.backward import differentiable, gradients, loss_of
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class GradientSquare(ModelStatistic):
    """The square of each batch's gradient, ``weight.shape``, averaged exponentially over the batches, in eval mode.

    The average starts at the first batch, and then keeps ``momentum`` of itself per batch.
    """

    momentum: ClassVar[float] = 0.9

    smoothed: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        with differentiable(view) as weights:
            smoothed: list[Tensor] = []
            for index in range(len(view.batches)):
                squares = [slope.float().square() for slope in gradients(view, loss_of(view, index), weights)]
                if smoothed:
                    torch._foreach_lerp_(smoothed, squares, 1 - cls.momentum)
                else:
                    smoothed = squares
        return {target.name: cls(value) for target, value in zip(view.targets, smoothed)}
