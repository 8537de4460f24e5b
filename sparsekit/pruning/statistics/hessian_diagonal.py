"""The diagonal of the Hessian of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from sparsekit.pruning.seeding import generator
from sparsekit.pruning.statistics.backward import gradients, hessian_product, loss_of, twice_differentiable
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class HessianDiagonal(ModelStatistic):
    """An estimate of the second derivative of the mean loss with respect to each weight, ``weight.shape``.

    It is the mean of ``v * H v`` over vectors ``v`` of random signs, new ones for each batch. Its expectation is the
    diagonal; what the other entries of a row of ``H`` add to it falls with the square root of the number of vectors,
    and is nothing where ``H`` is diagonal. The model is in eval mode. Signs depend on the seed and the name of
    the parameter.

    Source: Bekas, Kokiopoulou, Saad 2007, "An Estimator for the Diagonal of a Matrix".
    """

    probes: ClassVar[int] = 16
    """Vectors per batch."""

    seed: ClassVar[int] = 0

    diagonal: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward once and backward ``1 + probes`` times; see :meth:`ModelStatistic.collect`."""
        count = len(view.batches) * cls.probes
        with twice_differentiable(view) as weights:
            total = [weight.detach() * 0 for weight in weights]
            for index in range(len(view.batches)):
                slopes = gradients(view, loss_of(view, index), weights, create_graph=True)
                for probe in range(cls.probes):
                    signs = [_signs(cls.seed, f"{t.name}:{index}:{probe}", t.weight.detach()) for t in view.targets]
                    products = hessian_product(view, slopes, weights, signs)
                    torch._foreach_add_(total, torch._foreach_mul(signs, products))
        return {target.name: cls(summed / count) for target, summed in zip(view.targets, total)}


def _signs(seed: int, name: str, like: Tensor) -> Tensor:
    """One of -1 and 1 per entry of ``like``, each with probability 1/2."""
    return torch.randint(0, 2, like.shape, generator=generator(seed, name)).mul(2).sub(1).to(like)
