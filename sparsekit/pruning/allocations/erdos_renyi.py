"""More for the layers with many weights per unit: the density of a random bipartite graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation, check_share
from sparsekit.pruning.budget import fit


@dataclass(frozen=True)
class ErdosRenyi(Allocation):
    """Density in proportion to ``(in + out) / (in * out)`` of a weight: large layers lose more; kernels do not count.

    A layer whose density would exceed 1 stays dense, and the others carry what it does not lose.

    Args:
        minimum: smallest density of a layer, in [0, 1).

    Raises:
        PruningError: ``minimum`` is outside [0, 1).

    Source: Mocanu et al. 2018, "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
    Inspired by Network Science", eq. 1; Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery", section 3(1).
    """

    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_share("minimum", self.minimum)

    def ratio(self, shape: tuple[int, ...]) -> float:
        """What the density of a weight of ``shape`` is proportional to."""
        return sum(shape[:2]) / math.prod(shape[:2])

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``1 - density`` from the shapes alone; see :meth:`Allocation.sparsities`."""
        sizes = {name: weight.numel() for name, weight in scores.items()}
        ratios = {name: self.ratio(tuple(scores[name].shape)) for name in scores if sizes[name]}
        kept = (1.0 - check_sparsity(sparsity)) * sum(sizes.values())
        densities = fit(dict.fromkeys(ratios, 0.0), ratios, sizes, kept, self.minimum)
        return {name: 1.0 - density for name, density in densities.items()}
