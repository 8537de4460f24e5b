"""N of every M consecutive inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import PatternError
from sparsekit.patterns.base import FixedPattern, Remainder, as_matrix, keep_highest


@dataclass(frozen=True)
class NM(FixedPattern):
    """Keep ``n`` of every ``m`` consecutive inputs of an output row.

    The pattern fixes its own sparsity, ``1 - n / m``. Where a row's length is not a multiple of ``m``, the last
    ``length % m`` columns are kept dense. A group that keeps fewer than ``n`` is legal.

    Raises:
        PatternError: not ``1 <= n <= m``.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3; ``n`` counts kept weights.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n <= self.m):
            raise PatternError(f"NM: expected integers 1 <= n <= m (keep n of every m), got n={self.n}, m={self.m}")

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a group."""
        return self.m

    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return ``1 - n / m``."""
        return 1.0 - self.n / self.m

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Return the trailing columns that do not fill a group."""
        return Remainder(0, torch.Size(shape[1:]).numel() % self.m)

    def pool(self, scores: Tensor) -> Tensor:
        """Return the matrix view of ``scores`` without the trailing columns that do not fill a group."""
        matrix = as_matrix(scores)
        return matrix[:, : matrix.shape[1] - matrix.shape[1] % self.m]

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Append the trailing columns, kept."""
        keep = units.new_ones(shape, dtype=torch.bool)
        as_matrix(keep)[:, : units.shape[1]] = units
        return keep

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at the ``n`` highest of each group of ``units`` ``(rows, k * m)``; ties go to the lower index."""
        return keep_highest(units.reshape(-1, self.m), self.n).reshape(units.shape)

    def shuffle(self, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Shuffle inside each group; see :meth:`Pattern.shuffle`. Each group keeps as many as it had."""
        groups = self.pool(keep).reshape(-1, self.m)
        order = torch.rand(groups.shape, generator=generator).argsort(dim=1).to(keep.device)
        shuffled = keep.clone()
        units = self.pool(keep)
        as_matrix(shuffled)[:, : units.shape[1]] = groups.gather(1, order).reshape(units.shape)
        return shuffled

    def admits(self, keep: Tensor) -> bool:
        """Whether no whole group keeps more than ``n``."""
        groups = self.pool(keep).reshape(-1, self.m)
        if self.m > 16:
            return bool((groups.sum(dim=1) <= self.n).all())
        kept = torch.zeros(len(groups), dtype=torch.uint8, device=keep.device)
        for column in groups.view(torch.uint8).unbind(dim=1):  # torch is slow at the sum of short rows
            kept += column
        return bool((kept <= self.n).all())
