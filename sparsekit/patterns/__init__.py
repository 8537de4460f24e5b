"""Which sets of kept weights are legal."""

from sparsekit.patterns.base import Pattern, Remainder
from sparsekit.patterns.block import Block
from sparsekit.patterns.nm import NM
from sparsekit.patterns.unstructured import Unstructured

PATTERNS: tuple[type[Pattern], ...] = (Unstructured, NM, Block)

__all__ = ["NM", "PATTERNS", "Block", "Pattern", "Remainder", "Unstructured"]
