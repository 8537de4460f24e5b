"""Only the weights that matter most to the loss hear of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.training.base import TrainingMethod
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.state import State


@dataclass(frozen=True)
class GSM(TrainingMethod):
    """Passes the gradient of the loss to the weights with the largest ``|w * g|``, as many as are to stay in the end.

    The others only have the optimizer's momentum and weight decay, so that they fade; which ones they are is decided
    anew at each step. In the end the smallest weights go, next to nothing by then.

    The optimizer has to do the fading: give it weight decay (of the paper: 1e-4 to 5e-4), and not as part of the loss.
    A high momentum (0.98, or 0.99 for small networks, with SGD) keeps what has been chosen for a while and so lets
    weights come back. Biases are not touched.

    Source: Ding, Ding, Zhou, Guo, Han, Liu 2019, "Global Sparse Momentum SGD for Pruning Very Deep Neural Networks".
    """

    default_allocation: ClassVar[Allocation] = Global()

    def before_step(self, state: State) -> None:
        """Set the gradient of all but the most important weights to zero."""
        active = state.choose(self.importance(state), state.sparsity)
        for site in state.sites:
            site.set_gradient(site.gradient().masked_fill(~active[site.name], 0.0))
        shares = {name: float(keep.double().mean()) if keep.numel() else 0.0 for name, keep in active.items()}
        state.note("active", shares)

    def importance(self, state: State) -> dict[str, Tensor]:
        """Return ``|w * g|`` of each site."""
        return {site.name: (wide(site.read()) * wide(site.gradient())).abs() for site in state.sites}

    @torch.no_grad()
    def follow(self, state: State) -> None:
        """Let the masks say what would go now."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)
