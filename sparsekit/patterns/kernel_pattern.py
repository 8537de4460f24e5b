"""A few shapes that all kernels of a layer share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import FixedPattern, expect_finite, keep_highest
from sparsekit.patterns.taps import as_kernels, taps_of, without_kernels

CANDIDATES = 256
"""Shapes that compete for a place in the dictionary."""
ROOM = 1 << 17
"""Numbers per part of the table of kernels by shapes, so that it stays in the cache."""


@dataclass(frozen=True)
class KernelPattern(FixedPattern):
    """Every kernel keeps ``n`` of its taps, in one of at most ``size`` shapes that the whole layer shares.

    Where ``size`` shapes are enough to give each kernel its own best one, these are the dictionary. Otherwise it grows
    shape by shape, each time by the one that adds most to the score that the layer retains. All shapes compete where
    there are at most 256, as in 3 x 3 kernels; otherwise those that are the best of some kernel, up to the 256 that
    retain most. A kernel of at most ``n`` taps loses nothing; one that keeps none is legal. Weights without kernels,
    such as those of a Linear, are refused.

    Args:
        n: kept weights per kernel.
        size: shapes in the dictionary.

    Raises:
        PatternError: an argument is smaller than 1.

    Source: Niu, Ma, Lin, Wang, Qian, Lin, Wang, Ren 2020, "PatDNN", and Ma et al. 2020, "PCONV", for the pattern;
    these choose the dictionary by how often a shape is a kernel's best, and keep the central tap.
    """

    n: int = 4
    size: int = 8

    def __post_init__(self) -> None:
        if not all(isinstance(value, int) and value >= 1 for value in (self.n, self.size)):
            raise PatternError(f"KernelPattern: expected integers n, size >= 1, got {self.n} and {self.size}")

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights without kernels."""
        return without_kernels(shape)

    def span(self, shape: tuple[int, ...]) -> int:
        """Return all columns: the layer shares its dictionary."""
        return max(1, math.prod(shape[1:]))

    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return ``1 - n / taps``, or 0 for small kernels."""
        taps = taps_of(shape)
        return 1.0 - self.n / taps if taps > self.n else 0.0

    def pool(self, scores: Tensor) -> Tensor:
        """Return the kernels, ``(out * in, taps)``, in float64 so that ties stay ties."""
        return as_kernels(scores).double()

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``units`` in ``shape``."""
        return units.reshape(shape)

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """Give each kernel the best shape of the dictionary; ties go to the one with the lower taps."""
        expect_finite(units, self)
        if units.shape[1] <= self.n or not len(units):
            return torch.ones_like(units, dtype=torch.bool)
        shapes = self._dictionary(units)
        return shapes[self._best(units, shapes)]

    def admits(self, keep: Tensor) -> bool:
        """Whether each kernel keeps ``n`` taps (all, if it has fewer) or none, in at most ``size`` shapes."""
        kernels = as_kernels(keep)
        used = kernels[kernels.any(dim=1)]
        if not bool((used.sum(dim=1) == min(self.n, kernels.shape[1])).all()):
            return False
        for _ in range(self.size):
            used = used[(used != used[:1]).any(dim=1)]
        return len(used) == 0

    def _best(self, kernels: Tensor, shapes: Tensor) -> Tensor:
        """Which of ``shapes`` retains most of each kernel, ``(kernels,)``; the first among equals."""
        weights = shapes.to(kernels).T
        return torch.cat([(part @ weights).argmax(dim=1) for part in _parts(kernels, len(shapes))])

    def _dictionary(self, kernels: Tensor) -> Tensor:
        """The shapes to use, bool ``(up to size, taps)``, those with the lower taps first."""
        shapes = self._candidates(kernels)
        if (own := self._few(kernels, shapes)) is not None:
            return shapes[own]
        weights = shapes.to(kernels)
        chosen = [int((weights @ kernels.sum(dim=0)).argmax())]
        retained = kernels @ weights[chosen[0]]
        bounds = kernels.new_zeros(len(shapes))
        for part, now in zip(_parts(kernels, len(shapes)), _parts(retained, len(shapes))):
            bounds += torch.addmm(-now[:, None], part, weights.T).relu_().sum(dim=0)
        # What a shape adds falls as the dictionary grows: what it once added bounds it, and few are looked at again.
        while len(chosen) < self.size:
            stale = torch.ones(len(shapes), dtype=torch.bool, device=kernels.device)
            while bool(stale[best := int(bounds.argmax())]):
                bounds[best] = (kernels @ weights[best] - retained).relu_().sum()
                stale[best] = False
            chosen.append(best)
            retained = torch.maximum(retained, kernels @ weights[best])
        return shapes[sorted(set(chosen))]

    def _few(self, kernels: Tensor, shapes: Tensor) -> Tensor | None:
        """Which of ``shapes`` are the best of some kernel, ascending; None where these are more than ``size``."""
        own = torch.zeros(len(shapes), dtype=torch.bool, device=kernels.device)
        for part in _parts(kernels, len(shapes)):
            own[self._best(part, shapes)] = True
            if int(own.sum()) > self.size:
                return None
        return own.nonzero().squeeze(1)

    def _candidates(self, kernels: Tensor) -> Tensor:
        """The shapes that compete, bool ``(shapes, taps)``, those with the lower taps first."""
        taps = kernels.shape[1]
        if math.comb(taps, self.n) <= CANDIDATES:
            places = torch.tensor(list(combinations(range(taps), self.n)), device=kernels.device)
            return torch.zeros(len(places), taps, dtype=torch.bool, device=kernels.device).scatter_(1, places, True)
        own = keep_highest(kernels, self.n)
        found, which = torch.unique(own, dim=0, return_inverse=True)
        shapes: Tensor = found.flip(0)  # unique sorts False before True
        value = kernels.new_zeros(len(shapes)).index_add_(0, len(shapes) - 1 - which, (kernels * own).sum(dim=1))
        return shapes[keep_highest(value[None], min(max(CANDIDATES, self.size), len(shapes)))[0]]


def _parts(values: Tensor, width: int) -> tuple[Tensor, ...]:
    """Cut ``values`` ``(kernels, ...)`` so that a table of ``width`` numbers per kernel finds room."""
    return torch.split(values, max(1, ROOM // width))
