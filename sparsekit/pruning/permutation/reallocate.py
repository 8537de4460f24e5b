"""Deal the channels out, then assign them to places."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparsekit.pruning.permutation.objective import GroupObjective, MaskObjective, Objective


def search_reallocation(objective: Objective, sweeps: int) -> None:
    """Deal the channels out by their summed score, then assign those of one slot at a time to the groups at best.

    For patterns other than N:M all places are assigned at once for the pattern's choice of now, which is then made
    again.

    Args:
        objective: reordered in place.
        sweeps: over all slots, at most.

    Source: Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
    section 4.2, which assigns each slot once.
    """
    if isinstance(objective, GroupObjective):
        objective.move(serpentine(objective))
        _assign(objective, sweeps)
        return
    start = objective.order
    _assign(objective, sweeps)
    value, order = objective.value(), objective.order
    objective.restore(start)
    objective.move(by_sum(objective))
    _assign(objective, sweeps)
    if objective.value() <= value:
        objective.restore(order)


def _assign(objective: Objective, sweeps: int) -> None:
    """Assign every slot in turn until nothing gains."""
    slots = objective.m if isinstance(objective, GroupObjective) else 1
    for _ in range(sweeps):
        before, order = objective.value(), objective.order
        for slot in range(slots):
            objective.move(_assigned(objective, slot))
        if objective.value() <= before:
            objective.restore(order)
            return


def by_sum(objective: Objective) -> Tensor:
    """The order that puts channels with a high sum first, so that strong ones share blocks."""
    assert isinstance(objective, MaskObjective)
    sums = torch.stack([site.lines(site.scores).double().sum(dim=1).cpu() for site in objective.sites])
    return sums.sum(dim=0).argsort(descending=True, stable=True)


def serpentine(objective: GroupObjective) -> Tensor:
    """The order that deals columns, highest sum first, to the groups and back again; the highest fill the tail."""
    by_sum = objective.lines.double().sum(dim=1).argsort(descending=True, stable=True).cpu()
    whole = objective.groups * objective.m
    tail, dealt = by_sum[: objective.channels - whole], by_sum[objective.channels - whole :]
    rounds = dealt.reshape(objective.m, objective.groups).clone()
    rounds[1::2] = rounds[1::2].flip(1)
    return torch.cat([rounds.T.reshape(-1), tail])


def _assigned(objective: Objective, slot: int) -> Tensor:
    """The order with the best assignment of one slot of each group, or of all places where groups do not matter."""
    places = torch.arange(objective.channels)
    if isinstance(objective, GroupObjective):
        places = places[slot : objective.groups * objective.m : objective.m]
    _, column = linear_sum_assignment(objective.exchange(places).numpy(), maximize=True)
    order = torch.arange(objective.channels)
    order[places] = places[torch.from_numpy(column)]
    return order
