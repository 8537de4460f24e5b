"""What a penalty is: a loss term that makes weights small, so that they can go."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.training.base import TrainingMethod
from sparsekit.training.site import Site
from sparsekit.training.state import State


class PenaltyMethod(TrainingMethod):
    """Adds a term per layer to the loss; nothing is removed before the end of the run."""

    has_penalty: ClassVar[bool] = True

    def penalty(self, state: State) -> Tensor | None:
        """Return the sum of :meth:`cost` over all sites."""
        costs = [self.cost(state, site, site.value()) for site in state.sites]
        return (
            torch.stack([cost for cost in costs if cost is not None]).sum()
            if any(c is not None for c in costs)
            else None
        )

    @abstractmethod
    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor | None:
        """Return the term of one layer, a differentiable scalar; None for nothing.

        Args:
            state: the run; called between steps, so :attr:`State.step` is the index of the step to come.
            site: the layer's weight and what is remembered of it.
            weight: its value ``(out, in, ...)``, part of the graph.
        """


def learning_rate(state: State, site: Site) -> float | None:
    """Return what the optimizer steps ``site`` with now; None where it has no such number."""
    groups = state.optimizer.param_groups
    group = next(group for group in groups if any(one is site.weight for one in group["params"]))
    return float(group["lr"]) if "lr" in group else None
