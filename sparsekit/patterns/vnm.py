"""Four shared columns of every M, and N of them in each row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import as_matrix, expect_finite, keep_highest, tiles
from sparsekit.patterns.blockwise import BlockwiseNM

SHARED = 4
"""Columns that the rows of a block share."""
EXHAUSTIVE = 16
"""Blocks of up to so many columns try every choice of columns."""
ROOM = 1 << 14
"""Weights per column of what is computed at once, so that it stays in the cache."""

Pair = tuple[Tensor, Tensor]
"""The higher and the lower of two, element by element."""


@dataclass(frozen=True)
class VNM(BlockwiseNM):
    """Keep 4 of the columns of every ``v x m`` block, shared by its rows, and in each row ``n`` of these 4.

    The pattern fixes its own sparsity, ``1 - n / m``. Trailing rows and columns that fill no whole block are kept
    dense. A block that keeps fewer is legal. With ``m`` = 4 it is N:4, and with ``v`` = 1 it is N:M.

    The columns are those that retain most when each row keeps its best ``n`` of them: of all choices for ``m`` up to
    16; beyond, the best column first, then the one that adds most, until there are four, each then exchanged for
    another as long as that gains.

    Args:
        v: rows of a block.
        n: kept weights per row of a block, up to 4.
        m: columns of a block, at least 4.

    Raises:
        PatternError: not ``v >= 1``, ``1 <= n <= 4 <= m``.

    Source: Castro, Ivanov, Andrade, Ben-Nun, Fraguela, Hoefler 2023, "VENOM: A Vectorized N:M Format for Unleashing the
    Power of Sparse Tensor Cores".
    """

    v: int
    n: int
    m: int

    def __post_init__(self) -> None:
        integers = all(isinstance(value, int) for value in (self.v, self.n, self.m))
        if not (integers and self.v >= 1 and 1 <= self.n <= SHARED <= self.m):
            raise PatternError(
                f"VNM: expected integers v >= 1 and 1 <= n <= 4 <= m (keep n of 4 columns of every m), got v={self.v}, "
                f"n={self.n}, m={self.m}"
            )

    @property
    def height(self) -> int:
        """:attr:`v`."""
        return self.v

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at the ``n`` best of the four columns of each block; ties go to the lower index."""
        expect_finite(units, self)
        blocks = tiles(units, self.v, self.m).permute(3, 1, 0, 2)
        columns = blocks.reshape(self.m, self.v, -1)
        parts = torch.split(columns, max(1, ROOM // self.v), dim=2)
        kept = torch.cat([self._solve(part.contiguous()) for part in parts], dim=2)
        return kept.reshape(blocks.shape).permute(2, 1, 3, 0).reshape(units.shape)

    def admits(self, keep: Tensor) -> bool:
        """Whether no whole block keeps weights in more than four columns, nor more than ``n`` in a row."""
        blocks = tiles(as_matrix(keep), self.v, self.m)
        return bool((blocks.any(dim=1).sum(dim=2) <= SHARED).all() and (blocks.sum(dim=3) <= self.n).all())

    def _solve(self, columns: Tensor) -> Tensor:
        """The choice in blocks ``(m, v, blocks)``, each with its columns first."""
        if self.m <= EXHAUSTIVE:
            chosen = self._best_of_all(columns)
        else:
            chosen = self._best_by_exchange(columns)
        places = chosen[:, None, :].expand(-1, self.v, -1)
        offered = columns.gather(0, places)
        best = keep_highest(offered.reshape(SHARED, -1).T, self.n).T.reshape(offered.shape)
        return torch.zeros_like(columns, dtype=torch.bool).scatter_(0, places, best)

    def _best_of_all(self, columns: Tensor) -> Tensor:
        """The four columns of each block that retain most, ascending, ``(4, blocks)``; the lowest among equals."""
        found = columns.new_full((columns.shape[2],), -torch.inf)
        which = torch.zeros_like(found, dtype=torch.long)
        choices = list(combinations(range(self.m), SHARED))
        for index, retained in enumerate(_retained_by_all(columns, choices, self.n)):
            better = retained > found
            found = torch.where(better, retained, found)
            which.masked_fill_(better, index)
        return torch.tensor(choices, device=columns.device)[which].T

    def _best_by_exchange(self, columns: Tensor) -> Tensor:
        """Four columns of each block, ascending, ``(4, blocks)``, of which none can be exchanged for a better one."""
        chosen = columns.new_zeros((0, columns.shape[2]), dtype=torch.long)
        for _ in range(SHARED):
            chosen = torch.cat([chosen, self._retained_with(columns, chosen).argmax(dim=0)[None]])
        found = columns.new_full((columns.shape[2],), -torch.inf)
        better = torch.ones_like(found, dtype=torch.bool)
        while bool(better.any()):
            better = torch.zeros_like(better)
            for slot in range(SHARED):
                others = torch.cat([chosen[:slot], chosen[slot + 1 :]])
                retained, column = self._retained_with(columns, others).max(dim=0)
                gains = retained > found
                found = torch.where(gains, retained, found)
                chosen = torch.cat([others[:slot], torch.where(gains, column, chosen[slot])[None], others[slot:]])
                better |= gains
        return chosen.sort(dim=0).values

    def _retained_with(self, columns: Tensor, chosen: Tensor) -> Tensor:
        """What each column would retain, ``(m, blocks)``, together with those ``chosen``, ``(up to 3, blocks)``."""
        places = chosen[:, None, :].expand(-1, self.v, -1)
        fixed = columns.gather(0, places)
        retained = _highest_of([*fixed[:, None], columns], self.n).sum(dim=1)
        return retained.scatter_(0, chosen, -torch.inf)


def _retained_by_all(columns: Tensor, choices: list[tuple[int, ...]], n: int) -> Iterator[Tensor]:
    """Yield what each choice of four columns retains in each block: the sum of the ``n`` highest of each row."""
    pairs = {(i, j): _ordered(columns[i], columns[j]) for i, j in combinations(range(len(columns)), 2)}
    for first, second, third, fourth in choices:
        yield _highest_of_pairs(pairs[first, second], pairs[third, fourth], n).sum(dim=0)


def _highest_of(values: list[Tensor], n: int) -> Tensor:
    """The sum of the ``n`` highest, or of all, of up to four tensors, element by element."""
    if len(values) <= n:
        return functools.reduce(torch.add, values)
    if len(values) == SHARED:
        return _highest_of_pairs(_ordered(*values[:2]), _ordered(*values[2:]), n)
    high, low = _ordered(*values[:2])
    if len(values) == 2:
        return high
    return torch.maximum(high, values[2]) if n == 1 else high + torch.maximum(low, values[2])


def _highest_of_pairs(one: Pair, other: Pair, n: int) -> Tensor:
    """The sum of the ``n`` highest of two ordered pairs."""
    (high, low), (second_high, second_low) = one, other
    if n == 1:
        return torch.maximum(high, second_high)
    if n == 4:
        return high + low + second_high + second_low
    lower = torch.maximum(low, second_low)
    if n == 3:
        return high + second_high + lower
    return torch.maximum(high, second_high) + torch.maximum(torch.minimum(high, second_high), lower)


def _ordered(one: Tensor, other: Tensor) -> Pair:
    return torch.maximum(one, other), torch.minimum(one, other)
