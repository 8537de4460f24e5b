"""What an order of channels is worth, and what it would be worth with one channel elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsekit.patterns import NM, Pattern
from sparsekit.pruning.permutation.sites import Site, total


class Objective(ABC):
    """Channels in an order, and the score that a pattern keeps of them."""

    channels: int
    order: Tensor
    """``(channels,)``: which channel is at each place, counted as at the start."""

    def move(self, order: Tensor) -> None:
        """Put the channel now at ``order[i]`` to place ``i``."""
        self.order = self.order[order]
        self._move(order)

    @abstractmethod
    def _move(self, order: Tensor) -> None:
        """Reorder what :meth:`value` reads."""

    @abstractmethod
    def value(self) -> float:
        """The kept score now."""

    @abstractmethod
    def exchange(self, places: Tensor) -> Tensor:
        """What each of ``places`` would keep if it held each of the channels there now, all others staying.

        The change of ``(places, channels)`` entries adds up over all channels that move, or falls short of what they
        gain, where no two of their places share a :meth:`group`.
        """

    @abstractmethod
    def group(self) -> Tensor:
        """``(channels,)``: places of the same number change each other's entries."""

    def restore(self, order: Tensor) -> None:
        """Go back to an earlier :attr:`order`."""
        self.move(self.order.argsort()[order])


class MaskObjective(Objective):
    """Any pattern: a place keeps what the pattern's choice of now keeps there, and choosing again only adds to it."""

    def __init__(self, sites: Sequence[Site], pattern: Pattern, sparsity: float | None) -> None:
        own = {id(site.scores): site.scores.clone() for site in sites}
        self.sites = [replace(site, scores=own[id(site.scores)]) for site in sites]
        self.pattern, self.sparsity = pattern, sparsity
        self.numbers = sum(scores.numel() for scores in own.values())
        self.channels = len(sites[0].index)
        self.order = torch.arange(self.channels)

    def _move(self, order: Tensor) -> None:
        for site in self.sites:
            site.move(order)

    def value(self) -> float:
        """See :meth:`Objective.value`."""
        return total(self.sites, self.pattern, self.sparsity)

    def exchange(self, places: Tensor) -> Tensor:
        """See :meth:`Objective.exchange`."""
        worth = torch.zeros(len(places), len(places), dtype=torch.float64)
        for site in self.sites:
            keep = self.pattern.select(site.scores, self.sparsity)
            held, lines = site.lines(keep)[places], site.lines(site.scores)[places]
            worth += (held.to(lines.dtype) @ lines.T).double().cpu()
        return worth

    def group(self) -> Tensor:
        """No place changes another's entry as long as the choice stays."""
        return torch.arange(self.channels)


class GroupObjective(Objective):
    """N:M over single columns: groups of ``m`` places, each row of which keeps its ``n`` highest.

    Args:
        scores: ``(rows, channels)``; what does not fill a group at the end is kept.
        pattern: the N:M.
    """

    def __init__(self, scores: Tensor, pattern: NM) -> None:
        self.lines = scores.T.contiguous()
        self.n, self.m = pattern.n, pattern.m
        self.channels = scores.shape[1]
        self.order = torch.arange(self.channels)
        self.groups = self.channels // self.m

    def _move(self, order: Tensor) -> None:
        self.lines = self.lines[order.to(self.lines.device)]

    def value(self) -> float:
        """See :meth:`Objective.value`."""
        whole = self.groups * self.m
        grouped = self.lines[:whole].reshape(self.groups, self.m, -1)
        best = highest(list(grouped.unbind(1)), self.n)
        return float(best.double().sum() + self.lines[whole:].double().sum())

    def exchange(self, places: Tensor) -> Tensor:
        """See :meth:`Objective.exchange`; exact."""
        lines = self.lines[places.to(self.lines.device)]
        worth = lines.double().sum(dim=1).expand(len(places), -1).clone()
        for row, place in enumerate(places.tolist()):
            first = place // self.m * self.m
            if first == self.groups * self.m:
                continue  # in the tail, which is kept whole
            top = ranked([self.lines[i] for i in range(first, first + self.m) if i != place], self.n)
            worth[row] = (lines - top[-1]).clamp_(min=0).sum(dim=1).double()
            worth[row] += sum(line.double().sum() for line in top)
        return worth.cpu()

    def group(self) -> Tensor:
        """Places of the same N:M group; each of the tail is its own."""
        places = torch.arange(self.channels)
        whole = self.groups * self.m
        return torch.where(places < whole, places // self.m, self.groups + places - whole)


def ranked(lines: Sequence[Tensor], count: int) -> list[Tensor]:
    """The ``count`` highest of several tensors, element by element, highest first."""
    found: list[Tensor] = []
    for line in lines:
        sinking = line
        for i, held in enumerate(found):
            found[i], sinking = torch.maximum(held, sinking), torch.minimum(held, sinking)
        if len(found) < count:
            found.append(sinking)
    return found


def highest(lines: Sequence[Tensor], count: int) -> Tensor:
    """The sum of the ``count`` highest of several tensors, element by element."""
    top = ranked(lines, count)
    out = top[0].clone()
    for line in top[1:]:
        out += line
    return out


def objective_of(sites: Sequence[Site], pattern: Pattern, sparsity: float | None) -> Objective:
    """The exact objective where the pattern is N:M and whole groups are free, and the one for any pattern elsewhere."""
    if isinstance(pattern, NM) and pattern.n < pattern.m and all(_whole(site, pattern.m) for site in sites):
        return GroupObjective(torch.cat([site.lines(site.scores).T for site in sites]), pattern)
    return MaskObjective(sites, pattern, sparsity)


def _whole(site: Site, m: int) -> bool:
    """Whether the channels of ``site`` are consecutive columns of its matrix view that share no group with others."""
    columns, width = site.index[:, 0], site.scores[:1].numel()
    if site.dim != 1 or site.index.shape[1] != 1 or site.scores.shape[1] != width:
        return False
    first, count = int(columns[0]), len(columns)
    ends_well = count % m == 0 or first + count == width
    return first % m == 0 and ends_well and bool((columns == torch.arange(first, first + count)).all())
