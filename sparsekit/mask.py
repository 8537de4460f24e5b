"""A mask: which weights stay, and the pattern they obey."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.errors import MaskError
from sparsekit.patterns import NM, Block, Channel, Filter, KernelSlice, Pattern, Remainder, Unstructured


@dataclass(frozen=True, eq=False)
class Mask:
    """A boolean tensor (True = stays) together with its pattern.

    Args:
        keep: bool, of the weight's shape ``(out, in, ...)``.
        pattern: the pattern that ``keep`` obeys.

    Raises:
        MaskError: ``keep`` is not boolean, or the pattern refuses its shape or does not admit it.
    """

    keep: Tensor
    pattern: Pattern = Unstructured()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if not isinstance(self.keep, Tensor) or self.keep.dtype != torch.bool:
            got = self.keep.dtype if isinstance(self.keep, Tensor) else type(self.keep).__name__
            raise MaskError(f"mask: expected a bool tensor (True = stays), got {got}")
        if self.keep.dim() < 1:
            raise MaskError("mask: expected a tensor of at least one dimension, got a scalar")
        if reason := self.pattern.refuses(tuple(self.keep.shape)):
            raise MaskError(f"mask of shape {tuple(self.keep.shape)}: {self.pattern} {reason}")
        if not self.pattern.admits(self.keep):
            kept = int(self.keep.sum())
            raise MaskError(
                f"mask of shape {tuple(self.keep.shape)}: expected a set that {self.pattern} admits, got one of {kept} "
                f"kept weights that breaks it"
            )

    @property
    def shape(self) -> torch.Size:
        """The weight's shape."""
        return self.keep.shape

    @property
    def nnz(self) -> int:
        """The number of kept weights."""
        return int(torch.count_nonzero(self.keep))

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, in [0, 1]; 0 for an empty weight."""
        return 1.0 - self.nnz / self.keep.numel() if self.keep.numel() else 0.0

    @property
    def remainder(self) -> Remainder:
        """Rows and columns that the pattern cannot cover and that stay dense."""
        return self.pattern.remainder(tuple(self.shape))

    def check(self, weight: Tensor, name: str) -> None:
        """Raise :class:`MaskError` unless this mask belongs to ``weight``, the parameter called ``name``."""
        if self.keep.shape != weight.shape:
            raise MaskError(f"{name}: expected a mask of shape {tuple(weight.shape)}, got {tuple(self.keep.shape)}")
        if self.keep.device != weight.device:
            raise MaskError(f"{name}: expected a mask on {weight.device}, got one on {self.keep.device}")

    def __repr__(self) -> str:
        left = f", {self.remainder}" if self.remainder else ""
        return f"Mask({self.pattern}, shape={tuple(self.shape)}, sparsity={self.sparsity:.4f}{left})"


# Tried from the most to the least structured, and those first that a kernel is made for.
READABLE: tuple[Pattern, ...] = (
    *(Block(side, side) for side in (64, 32, 16, 8, 4)),
    Block(16, 1),
    Filter(),
    Channel(),
    KernelSlice(),
    NM(1, 4),
    NM(2, 4),
    NM(4, 8),
)


def read_mask(weight: Tensor) -> Mask:
    """Read a mask from the zeros of ``weight`` ``(out, in, ...)``, with the most structured pattern that explains them.

    Both zeros count as removed; NaN counts as kept. A pattern explains the zeros where at least 98 % of them lie in
    units that are zero as a whole; the others are then kept weights that happen to be 0. A pattern that fixes its own
    sparsity explains them where it admits them and would have made as many, within 2 %.
    """
    keep = weight != 0
    zeros = keep.numel() - int(torch.count_nonzero(keep))
    if zeros:
        for pattern in READABLE:
            if not pattern.refuses(tuple(keep.shape)):
                read = _fixed(pattern, keep, zeros) if pattern.fixes_sparsity else _whole_units(pattern, keep)
                if read is not None:
                    return Mask(read, pattern)
    return Mask(keep, Unstructured())


_STRIP = 64
"""Rows that a pattern has to explain before all are looked at: a multiple of every unit of :data:`READABLE` that does
not go through all rows. What is not of the pattern nearly always shows in them."""


def _fixed(pattern: Pattern, keep: Tensor, zeros: int) -> Tensor | None:
    """What stays where ``pattern``, which fixes its sparsity, explains the ``zeros``, else None."""
    shape = tuple(keep.shape)
    high, wide = pattern.grid(shape)
    made = high * wide * pattern.sparsity(None, shape)
    admitted = 0.98 * made <= zeros <= 1.02 * made and pattern.admits(keep[:_STRIP]) and pattern.admits(keep)
    return keep if admitted else None


def _whole_units(pattern: Pattern, keep: Tensor) -> Tensor | None:
    """What stays where the whole units of ``pattern`` explain the zeros, else None."""
    high, wide = pattern.grid(tuple(keep.shape))
    if high * wide == keep.numel():
        return None  # units of one weight explain any zeros
    stays = keep
    for part, share in ((keep[:_STRIP], 0.9), (keep, 0.98)):
        stays = pattern.spread(pattern.pool(part.float()) > 0, tuple(part.shape))
        zeros = part.numel() - int(torch.count_nonzero(part))
        if part.numel() - int(torch.count_nonzero(stays)) < share * zeros:
            return None
    return stays
