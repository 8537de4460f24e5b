"""N of every M consecutive inputs, and of every M consecutive outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.assignment import greedily, improved
from sparsekit.patterns.base import as_matrix, expect_finite, tiles
from sparsekit.patterns.blockwise import BlockwiseNM

METHODS = ("exact", "greedy")
ROOM = 1 << 22
"""Numbers per part of what is computed for many blocks at once."""


@dataclass(frozen=True)
class TransposableNM(BlockwiseNM):
    """Keep ``n`` of ``m`` weights in each row and each column of every ``m x m`` block.

    The weight and its transpose both are N:M, so that the product of the backward pass is sparse too. The pattern fixes
    its own sparsity, ``1 - n / m``. Trailing rows and columns that fill no whole block are kept dense. A block that
    keeps fewer is legal; what is selected has exactly ``n`` everywhere.

    ``exact`` maximises the retained score of each block: for ``m`` up to 4 by trying all (90 for 2:4), beyond by
    cancelling cycles that gain until there is none, which is the optimum of the min-cost flow (to 1e-12 of the block's
    largest score). ``greedy`` takes the highest score that still has room in its row and column, then fills what was
    left open. With scores of at least 0 it retains at least half of the optimum: greedy alone does, and where filling
    up loses, the block is solved exactly.

    Args:
        n: kept weights per row and column of a block.
        m: sides of a block.
        method: "exact" or "greedy".

    Raises:
        PatternError: not ``1 <= n <= m``, or ``method`` is another word.

    Source: Hubara, Chmiel, Island, Banner, Naor, Soudry 2021, "Accelerated Sparse Neural Training: A Provable and
    Efficient Method to Find N:M Transposable Masks"; its N counts zeros, here ``n`` counts kept weights.
    """

    n: int
    m: int
    method: str = "exact"

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n <= self.m):
            raise PatternError(
                f"TransposableNM: expected integers 1 <= n <= m (keep n of every m), got n={self.n}, m={self.m}"
            )
        if self.method not in METHODS:
            raise PatternError(f"TransposableNM: expected the method 'exact' or 'greedy', got {self.method!r}")

    @property
    def height(self) -> int:
        """:attr:`m`."""
        return self.m

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at the ``n`` of each row and column of each block that retain most; ties go to the lower index."""
        expect_finite(units, self)
        blocks = tiles(units, self.m, self.m).transpose(1, 2)
        flat = blocks.reshape(-1, self.m, self.m)
        kept = torch.cat([self._solve(part) for part in torch.split(flat, max(1, ROOM // self.m**3))])
        return kept.reshape(blocks.shape).transpose(1, 2).reshape(units.shape)

    def admits(self, keep: Tensor) -> bool:
        """Whether no row and no column of a whole block keeps more than ``n``."""
        blocks = tiles(as_matrix(keep), self.m, self.m)
        return bool((blocks.sum(dim=1) <= self.n).all() and (blocks.sum(dim=3) <= self.n).all())

    def _solve(self, blocks: Tensor) -> Tensor:
        """The choice in each of ``blocks`` ``(blocks, m, m)``."""
        if self.method == "exact" and self.m <= 4:
            every = every_mask(self.n, self.m).to(blocks.device)
            best = (blocks.flatten(1) @ every.flatten(1).to(blocks).T).argmax(dim=1)
            return every[best]
        kept, lost = greedily(blocks, self.n)
        if self.method == "greedy":
            kept[lost] = improved(blocks[lost], kept[lost])
            return kept
        return improved(blocks, kept)


@cache
def every_mask(n: int, m: int) -> Tensor:
    """All masks of ``n`` in each row and column, bool ``(masks, m, m)``, those with the lower indices first."""
    rows = [[column in chosen for column in range(m)] for chosen in combinations(range(m), n)]
    return torch.tensor([mask for mask in product(rows, repeat=m) if all(sum(column) == n for column in zip(*mask))])
