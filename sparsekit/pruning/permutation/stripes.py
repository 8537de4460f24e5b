"""Exhaustive search in windows of two stripes."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from sparsekit.pruning.permutation.objective import GroupObjective, highest

MOST_SPLITS = 1000
"""Ways to divide the columns of two stripes that are all tried; where there are more, only single columns trade."""
ROOM = 1 << 19
"""Numbers of one intermediate result, so that it stays in the cache."""
AT_ONCE = 2048
"""Windows that are looked at before the best of them are taken."""


def splits(m: int) -> Tensor:
    """The ways to divide ``2 m`` columns into two groups: ``(ways, 2, m)``, the first the one that changes nothing."""
    ways = []
    for rest in combinations(range(1, 2 * m), m - 1):
        first = (0, *rest)
        ways.append([list(first), [i for i in range(2 * m) if i not in first]])
    return torch.tensor(ways)


def small_enough(m: int) -> bool:
    """Whether all ways to divide a window can be tried."""
    return math.comb(2 * m, m) // 2 <= MOST_SPLITS


def search_stripes(objective: GroupObjective, effort: int, escapes: int, generator: torch.Generator) -> None:
    """Divide the columns of two stripes anew wherever that keeps more, the best windows first.

    Where no window gains, two stripes trade columns at random, and what follows is kept if it ends higher.

    Args:
        objective: reordered in place.
        effort: windows that are looked at, at most, before the escapes and again by all of them together.
        escapes: random trades.
        generator: draws them.

    Source: Pool, Yu 2021, "Channel Permutations for N:M Sparsity", sections 4 and 5.
    """
    if objective.groups < 2:
        return
    windows = torch.combinations(torch.arange(objective.groups))
    windows = windows[torch.randperm(len(windows), generator=generator)]
    _settle(objective, windows, effort)
    left = effort
    for _ in range(escapes):
        if left <= 0:
            return
        before, order = objective.value(), objective.order
        pair = torch.randperm(objective.groups, generator=generator)[:2]
        columns = _columns(pair, objective.m)
        shuffled = torch.arange(objective.channels)
        shuffled[columns] = columns[torch.randperm(len(columns), generator=generator)]
        objective.move(shuffled)
        touched = (windows[:, :, None] == pair).any(dim=2).any(dim=1)
        left -= _settle(objective, windows[touched], left)
        if objective.value() <= before:
            objective.restore(order)


def _settle(objective: GroupObjective, windows: Tensor, effort: int) -> int:
    """Work through a queue of windows ``(w, 2)``, to which each change adds those it touches; return how many."""
    ways = splits(objective.m)
    every = torch.arange(objective.groups)
    queue, seen = windows, 0
    smallest = 1e-7 * max(abs(objective.value()), 1e-30)
    while len(queue) and seen < effort:
        now, queue = queue[:AT_ONCE], queue[AT_ONCE:]
        seen += len(now)
        gains, choice = _best(objective, now, ways)
        taken = _disjoint(now, gains, smallest)
        if not len(taken):
            continue
        order = torch.arange(objective.channels)
        for i in taken.tolist():
            columns = _columns(now[i], objective.m)
            order[columns] = columns[ways[choice[i]].reshape(-1)]
        objective.move(order)
        changed = now[taken].reshape(-1)
        again = torch.cartesian_prod(changed, every).sort(dim=1).values
        queue = _union(queue, now[gains > smallest], again[again[:, 0] != again[:, 1]], objective.groups)
    return seen


def _union(queue: Tensor, *more: Tensor | int) -> Tensor:
    """``queue`` and what is not in it yet, in this order."""
    *added, groups = more
    assert isinstance(groups, int)
    windows = torch.cat([queue, *(one for one in added if isinstance(one, Tensor))])
    keys = windows[:, 0] * groups + windows[:, 1]
    distinct, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full((len(distinct),), len(keys)).scatter_reduce(0, inverse, torch.arange(len(keys)), "amin")
    return windows[first.sort().values]


def _columns(stripes: Tensor, m: int) -> Tensor:
    """The columns of some stripes, one stripe after the other."""
    return (stripes[:, None] * m + torch.arange(m)).reshape(-1)


def _best(objective: GroupObjective, windows: Tensor, ways: Tensor) -> tuple[Tensor, Tensor]:
    """How much the best division of each window gains, and which it is."""
    device = objective.lines.device
    subsets = ways.reshape(-1, objective.m)
    rows = objective.lines.shape[1]
    gains, choice = [], []
    for part in windows.split(max(1, ROOM // max(1, len(subsets) * rows))):  # type: ignore[no-untyped-call]
        columns = (part[:, :, None] * objective.m + torch.arange(objective.m)).reshape(len(part), -1)
        window = objective.lines[columns.T.to(device)]
        held = highest([window[subsets[:, i].to(device)] for i in range(objective.m)], objective.n)
        worth = held.sum(dim=2).reshape(len(ways), 2, -1).double().sum(dim=1).cpu()
        best = worth.max(dim=0)
        gains.append(best.values - worth[0])
        choice.append(best.indices)
    return torch.cat(gains), torch.cat(choice)


def _disjoint(windows: Tensor, gains: Tensor, smallest: float) -> Tensor:
    """Indices of windows that gain and share no stripe, the best first."""
    used: set[int] = set()
    taken = []
    for i in gains.argsort(descending=True, stable=True).tolist():
        if gains[i] <= smallest:
            break
        pair = windows[i].tolist()
        if used.isdisjoint(pair):
            used.update(pair)
            taken.append(i)
    return torch.tensor(taken, dtype=torch.long)
