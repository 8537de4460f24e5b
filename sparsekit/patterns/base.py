"""What a pattern is: the legal sets of kept weights, and the only place that selects."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import torch
from torch import Tensor

from sparsekit.errors import PatternError


@dataclass(frozen=True)
class Remainder:
    """Rows and columns of a matrix view that a pattern cannot cover and therefore keeps dense."""

    rows: int
    columns: int

    def __str__(self) -> str:
        parts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((self.rows, "row"), (self.columns, "column")) if n]
        return " and ".join(parts) + " kept dense" if parts else "nothing left over"

    def __bool__(self) -> bool:
        return bool(self.rows or self.columns)


class Pattern(ABC):
    """The sets of kept weights that are legal for one weight tensor.

    A weight of shape ``(out, in, ...)`` has the matrix view ``(out, in * ...)``: one row per output. A pattern divides
    the weight into *units* that stay or go as a whole, laid out in rows and columns as in that matrix; one that fixes
    its own sparsity lays out what it chooses among as it needs it.
    """

    def __str__(self) -> str:
        """Write it as the user does: ``Block(16, 16)``."""
        sides = [repr(getattr(self, field.name)) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(sides)})"

    @property
    def fixes_sparsity(self) -> bool:
        """Whether the pattern alone says how many weights go, so that no budget can be shared out."""
        return False

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Say in half a sentence why a weight of ``shape`` cannot have this pattern; None where it can."""
        return None

    def span(self, shape: tuple[int, ...]) -> int:
        """Columns of the matrix view that have to be chosen together: cut at its multiples, it is chosen in parts."""
        return 1

    def block_sides(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Sides ``(rows, columns)`` of the blocks that a mask of a weight of ``shape`` can be stored by.

        The matrix view is cut into blocks of these sides from its upper left corner on, those at the lower and right
        edge smaller, and what :meth:`select` keeps is a union of them. None where there are no such blocks, or where
        whole rows or columns go.
        """
        return None

    @abstractmethod
    def pool(self, scores: Tensor) -> Tensor:
        """Score of each unit.

        Args:
            scores: ``(out, in, ...)``, higher = keep.

        Returns:
            ``(unit rows, unit columns)``; a unit's score is the sum of its members' scores.
        """

    @abstractmethod
    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of :meth:`pool` for a boolean choice of units: ``shape``, True where kept or left over."""

    @abstractmethod
    def admits(self, keep: Tensor) -> bool:
        """Whether ``keep`` (bool, ``(out, in, ...)``) is a legal set of kept weights."""

    def remainder(self, shape: tuple[int, ...]) -> Remainder:
        """Rows and columns of a weight of ``shape`` that no whole unit covers; they stay dense."""
        return Remainder(0, 0)

    def sparsity(self, requested: float | None, shape: tuple[int, ...]) -> float:
        """The sparsity to use for a weight of ``shape`` when ``requested`` was asked for.

        Raises:
            PatternError: the request is missing, outside [0, 1), or contradicts the pattern.
        """
        if requested is None:
            raise PatternError(f"{self} does not fix its own sparsity: expected sparsity in [0, 1), got None")
        return check_sparsity(requested)

    def select(self, scores: Tensor, sparsity: float | None, *, by_row: bool = False) -> Tensor:
        """Choose what stays: the highest scores, exactly ``units - floor(sparsity * units)`` of them.

        Among equal scores the lower index (row-major) stays. Nothing else in sparsekit selects.

        Args:
            scores: ``(out, in, ...)``, finite, higher = keep.
            sparsity: fraction of units that go, in [0, 1).
            by_row: compare and count within each row of units instead of within the whole tensor. Where a row holds a
                single unit, which has nothing to be compared with, the whole tensor is compared after all.

        Returns:
            bool tensor of ``scores.shape``, True = stays.

        Raises:
            PatternError: the sparsity is outside [0, 1), the pattern refuses the shape, or the scores contain NaN.
        """
        shape = tuple(scores.shape)
        high, wide = self.grid(shape)
        fraction = self.sparsity(sparsity, shape)
        by_row = by_row and wide > 1
        return self.choose(scores, removed(fraction, wide if by_row else high * wide), by_row=by_row)

    def choose(self, scores: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """Like :meth:`select`, where a count of units is known: exactly the ``gone`` lowest go, even all of them.

        Args:
            scores: ``(out, in, ...)``, higher = keep.
            gone: units that go; with ``by_row``, of each row of units. A pattern that fixes its sparsity ignores it.
            by_row: compare within each row of units instead of within the whole tensor.

        Returns:
            bool tensor of ``scores.shape``, True = stays.

        Raises:
            PatternError: the pattern refuses the shape, or the scores contain NaN.
        """
        self.expect(tuple(scores.shape))
        if bool(torch.isnan(scores).any()):
            raise PatternError(f"{self}: expected scores without NaN, got {int(torch.isnan(scores).sum())} NaN")
        return self.spread(self.keep(self.pool(scores), gone, by_row=by_row), tuple(scores.shape))

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at all but the ``gone`` lowest of ``units``, or of each of its rows; ties go to the lower index."""
        lines = units if by_row else units.reshape(1, -1)
        return keep_highest(lines, lines.shape[1] - gone).reshape(units.shape)

    def shuffle(self, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Choose at random as many units as the legal set ``keep`` has, bool, ``keep.shape``; what is left over stays.

        A pattern that fixes its own sparsity chooses as many weights as it does by itself.
        """
        shape = tuple(keep.shape)
        scores = torch.rand(shape, generator=generator, dtype=torch.float64).to(keep.device)
        gone = self.pool(keep.double()) == 0
        left_over = self.spread(torch.zeros_like(gone), shape) if not self.fixes_sparsity else torch.zeros_like(keep)
        return torch.where(left_over, keep, self.choose(scores, int(gone.sum())))

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return ``(unit rows, unit columns)`` of a weight of ``shape``.

        Raises:
            PatternError: the pattern refuses the shape.
        """
        self.expect(shape)
        units = self.pool(torch.empty(shape, device="meta"))
        return units.shape[0], units.shape[1]

    def expect(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`PatternError` where the pattern refuses ``shape``."""
        if reason := self.refuses(shape):
            raise PatternError(f"{self} {reason}")


class FixedPattern(Pattern):
    """A pattern that alone says how many weights of a given shape stay: a budget cannot change it."""

    @property
    def fixes_sparsity(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return the fraction of zeros in what the pattern covers of a weight of ``shape``, in [0, 1)."""

    def sparsity(self, requested: float | None, shape: tuple[int, ...]) -> float:
        """Return :meth:`own_sparsity`; raise where another sparsity was asked for."""
        own = self.own_sparsity(shape)
        if requested is not None and abs(check_sparsity(requested) - own) > 1e-6:
            raise PatternError(f"{self} fixes its own sparsity: expected {own:g} or None, got {requested}")
        return own

    def select(self, scores: Tensor, sparsity: float | None = None, *, by_row: bool = False) -> Tensor:
        """Choose what stays; see :meth:`Pattern.select`. ``by_row`` changes nothing."""
        return super().select(scores, sparsity, by_row=by_row)

    @abstractmethod
    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """Choose among ``units``, in the shape that :meth:`pool` gave them; ``gone`` and ``by_row`` change nothing."""


def expect_finite(units: Tensor, pattern: Pattern) -> None:
    """Raise :class:`PatternError` for infinite scores, where ``pattern`` compares sums over sets that overlap."""
    if not bool(torch.isfinite(units).all()):
        raise PatternError(f"{pattern}: expected finite scores, got infinite ones")


def as_matrix(weight: Tensor) -> Tensor:
    """The matrix view ``(out, in * ...)`` of a weight of at least one dimension."""
    return weight.reshape(weight.shape[0], math.prod(weight.shape[1:]))


def tiles(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """View of the whole tiles of ``matrix``, ``(tile rows, rows, tile columns, columns)``."""
    high, wide = matrix.shape[0] // rows, matrix.shape[1] // columns
    return matrix[: high * rows, : wide * columns].reshape(high, rows, wide, columns)


def check_sparsity(sparsity: float) -> float:
    """Return ``sparsity`` as a float, or raise :class:`PatternError` where it is not in [0, 1)."""
    value = float(sparsity) if isinstance(sparsity, Real) else math.nan
    if not 0.0 <= value < 1.0:
        raise PatternError(f"sparsity: expected a fraction of zeros in [0, 1), got {sparsity!r}")
    return value


def removed(sparsity: float, count: int) -> int:
    """``floor(sparsity * count)`` of the number that was meant: 0.29 of 100 is 29 (not 28), and ``k / n`` of n is k."""
    return math.floor(Fraction(sparsity) * count + Fraction(1, 10**7))


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Per row of ``scores`` ``(rows, n)``, True at the ``count`` highest; ties go to the lower index."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    if count <= 0 or scores.shape[0] == 0:
        return keep
    n = scores.shape[1]
    if count >= n:
        return ~keep
    threshold = scores.kthvalue(n - count + 1, dim=1, keepdim=True).values
    above = scores > threshold
    ties = scores == threshold
    room = count - above.sum(dim=1, keepdim=True)
    return above | (ties & (ties.cumsum(dim=1) <= room))
