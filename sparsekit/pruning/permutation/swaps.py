"""Greedy trades of two channels."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.pruning.permutation.objective import MaskObjective, Objective

TRIED_NUMBERS = 1 << 31
"""Scores that trying trades may read, over all tries."""


def search_swaps(objective: Objective, sweeps: int, tries: int, generator: torch.Generator) -> None:
    """Let the pair of channels that gains most trade places, then the next, until no pair gains.

    A sweep takes every pair that does not disturb one that was taken before it. Where the entries say less than trades
    gain, pairs are then tried at random.

    Args:
        objective: reordered in place.
        sweeps: at most so many.
        tries: pairs that are tried, at most.
        generator: draws them.
    """
    _sweep(objective, sweeps)
    if not isinstance(objective, MaskObjective):
        return
    best = objective.value()
    tries = min(tries, TRIED_NUMBERS // max(1, objective.numbers))
    pairs = torch.combinations(torch.arange(objective.channels))
    for pair in pairs[torch.randperm(len(pairs), generator=generator)[:tries]]:
        order = torch.arange(objective.channels)
        order[pair] = pair.flip(0)
        objective.move(order)
        if (value := objective.value()) > best * (1 + 1e-7):
            best = value
        else:
            objective.move(order)


def _sweep(objective: Objective, sweeps: int) -> None:
    """Trade by the entries until none gains."""
    for _ in range(sweeps):
        worth = objective.exchange(torch.arange(objective.channels))
        own = worth.diagonal()
        gains = worth + worth.T - own[:, None] - own[None, :]
        smallest = 1e-7 * max(float(own.abs().sum()), 1e-30)
        order = _trades(gains, objective.group(), smallest)
        if order is None:
            return
        before = objective.value()
        objective.move(order)
        if objective.value() <= before:
            objective.move(order)  # its own inverse: nothing but rounding was gained
            return


def _trades(gains: Tensor, group: Tensor, smallest: float) -> Tensor | None:
    """The order after the best trades that leave each other alone; None where none gains."""
    count = len(gains)
    gains = gains.masked_fill(group[:, None] == group[None, :], 0.0).triu(1)
    best, partner = gains.max(dim=1)
    order = torch.arange(count)
    used: set[int] = set()
    for i in best.argsort(descending=True, stable=True).tolist():
        if best[i] <= smallest:
            break
        j = int(partner[i])
        mine = {int(group[i]), int(group[j])}
        if used.isdisjoint(mine):
            used |= mine
            order[i], order[j] = j, i
    return order if used else None
