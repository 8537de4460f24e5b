"""Prune once, and train again from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns import NM, Pattern
from sparsekit.training.base import TrainingMethod
from sparsekit.training.state import State


@dataclass(frozen=True)
class ASP(TrainingMethod):
    """Chooses by magnitude when it is attached, 2 of every 4 by default, and holds that choice for the whole run.

    The recipe is to attach it to a trained model and to repeat the training that made it, with the same learning rates.
    Groups are those of the pattern, along the rows of the matrix view. A permutation of input channels that makes the
    choice cost less is found, before this, by ``permute_for(model, ...)``. What NVIDIA's library leaves dense for its
    hardware, rows and columns that are no multiples of 8 and 16, is left out with ``layers=``.

    Source: Mishra, Albericio Latorre, Pool, Stosic, Stosic, Venkatesh, Yu, Micikevicius 2021, "Accelerating Sparse Deep
    Neural Networks", section 4.
    """

    default_pattern: ClassVar[Pattern] = NM(2, 4)

    def prepare(self, state: State) -> None:
        """Choose, and hold."""
        state.hold(state.choose(self.scores(state), state.sparsity))

    def final(self, state: State) -> dict[str, Tensor]:
        """Return the masks of the start."""
        return {site.name: site.keep for site in state.sites}
