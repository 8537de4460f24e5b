"""Prune, and train what is left from where it began."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from sparsekit.errors import PruningError
from sparsekit.pruning import ablations
from sparsekit.pruning.allocations import Allocation, Global
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.training.rounds.base import RoundMethod, check_open, check_part, check_rounds
from sparsekit.training.rounds.rates import forget
from sparsekit.training.rounds.weights import load_model, read_model
from sparsekit.training.sharding import piece
from sparsekit.training.state import State

REWIND = "rewind."


@dataclass(frozen=True)
class LotteryTicket(RoundMethod):
    """Removes a fifth of what is left, sets the others back to where they began, and trains again.

    All parameters and buffers of the model, also those of normalisation layers, go back bit for bit; the optimizer
    forgets, and the learning rates of the first phase are used again from there on, whatever the user's schedule does.
    With ``count = method.count(sparsity)``, a run in which the first phase has T steps takes
    ``method.total_steps(T, count)``.

    Args:
        criterion: what is removed.
        rounds: prunings, each of which removes the same fraction of what is left; None = as many as ``fraction``
            takes to the sparsity, or as fit into the run, or 5 where there is no sparsity.
        fraction: share of the survivors that a round removes, in (0, 1); the last round meets the sparsity exactly.
        rewind: share of the first phase after which the weights are remembered, in [0, 1); 0 = at initialisation.
            Above 0, the later paper calls the ticket stabilised, and needs 0.001 to 0.07.
        reinitialise: draw the pruned layers anew instead (their biases too), by their own ``reset_parameters``: the
            control of what the weights of a ticket are worth.

    Raises:
        PruningError: an argument is out of its range.

    Source: Frankle, Carbin 2018, "The Lottery Ticket Hypothesis", section 2, iterative pruning with resetting; Frankle,
    Dziugaite, Roy, Carbin 2019, "Stabilizing the Lottery Ticket Hypothesis", for rewinding.
    """

    criterion: Criterion = field(default_factory=Magnitude)
    rounds: int | None = None
    fraction: float = 0.2
    rewind: float = 0.0
    reinitialise: bool = False
    replays: ClassVar[bool] = True
    rewinds_weights: ClassVar[bool] = True
    default_allocation: ClassVar[Allocation] = Global()

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        check_part(rewind=self.rewind)
        check_open(fraction=self.fraction)

    def check(self, state: State) -> None:
        """Raise :class:`PruningError` where a phase would have no step, or a sharded layer would be drawn anew."""
        super().check(state)
        sharded = [site.name for site in state.sites if piece(site.weight).shape != site.weight.shape]
        if self.reinitialise and sharded:
            raise PruningError(f"{sharded[0]}: reinitialise expects a weight that is whole on every rank, got a shard")

    def remember(self, state: State) -> None:
        """Keep a copy of all parameters and buffers."""
        state.tensors.update({REWIND + name: value for name, value in read_model(state.model).items()})

    def go_back(self, state: State) -> None:
        """Set the model back, and let the optimizer forget."""
        kept = {name: value for name, value in state.tensors.items() if name.startswith(REWIND)}
        load_model(state.model, {name.removeprefix(REWIND): value for name, value in kept.items()})
        if self.reinitialise:
            seed = int(torch.randint(2**62, (), generator=state.generator))
            ablations.reinitialise(state.model, {site.name: site.mask for site in state.sites}, seed)
        forget(state)
