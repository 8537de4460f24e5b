"""One weight of every kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import FixedPattern, keep_highest
from sparsekit.patterns.taps import as_kernels, taps_of, without_kernels


@dataclass(frozen=True)
class OnePerKernel(FixedPattern):
    """Keep exactly one weight of every kernel, so that the convolution is a shift of each input and a 1 x 1 kernel.

    The sparsity follows from the kernel: ``1 - 1 / taps``; a 1 x 1 kernel loses nothing. A kernel that keeps none is
    legal. Weights without kernels, such as those of a Linear, are refused.

    Source: Hacene, Lassance, Gripon, Courbariaux, Bengio 2019, "Attention Based Pruning for Shift Networks".
    """

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Refuse weights without kernels."""
        return without_kernels(shape)

    def span(self, shape: tuple[int, ...]) -> int:
        """Return the columns of a kernel."""
        return max(1, taps_of(shape))

    def own_sparsity(self, shape: tuple[int, ...]) -> float:
        """Return ``1 - 1 / taps``."""
        return 1.0 - 1 / max(1, taps_of(shape))

    def pool(self, scores: Tensor) -> Tensor:
        """Return the kernels, ``(out * in, taps)``."""
        return as_kernels(scores)

    def spread(self, units: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``units`` in ``shape``."""
        return units.reshape(shape)

    def keep(self, units: Tensor, gone: int, *, by_row: bool = False) -> Tensor:
        """True at the highest of each kernel; ties go to the lower index."""
        return keep_highest(units, 1)

    def admits(self, keep: Tensor) -> bool:
        """Whether no kernel keeps more than one."""
        return bool((as_kernels(keep).sum(dim=1) <= 1).all())
