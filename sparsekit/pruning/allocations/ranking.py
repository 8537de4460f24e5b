"""One ranking across all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import check_sparsity, keep_highest, removed
from sparsekit.pruning.allocations.base import Allocation, check_share

SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": torch.linalg.vector_norm,
    "mean": lambda scores: scores.abs().mean(),
    "max": lambda scores: scores.abs().max(),
}


@dataclass(frozen=True)
class Global(Allocation):
    """One ranking across all layers: exactly ``floor(sparsity * units)`` units go, wherever the lowest scores are.

    Among equal scores the earlier layer, and in it the lower index, stays. Units that went in an earlier round rank
    lowest, and do not count in a normalisation.

    Args:
        normalise: what each layer's scores are divided by first, so that layers on different scales compare: their
            Euclidean norm (``"l2"``), the mean (``"mean"``) or the maximum (``"max"``) of their magnitudes; None takes
            them as they are.
        minimum: smallest density of a layer, in [0, 1); above 0, a layer keeps one unit at least. The others make up
            for it, so that the total stays exact.

    Raises:
        PruningError: an argument is none of these.

    Source: Lee, Ajanthan, Torr 2019, "SNIP", eq. 6, ranks across layers; Molchanov, Tyree, Karras, Aila, Kautz 2017,
    "Pruning Convolutional Neural Networks for Resource Efficient Inference", divides by the norm of a layer's scores.
    """

    normalise: Literal["l2", "mean", "max"] | None = None
    minimum: float = 0.0
    compares_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share("minimum", self.minimum)
        if self.normalise is not None and self.normalise not in SCALES:
            raise PruningError(f"normalise: expected None, {', '.join(map(repr, SCALES))}, got {self.normalise!r}")

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the fraction of each layer's units below the common threshold; see :meth:`Allocation.sparsities`."""
        if not scores:
            return {}
        device = next(iter(scores.values())).device
        layers = [self._scaled(units.reshape(-1).to(device, torch.float64)) for units in scores.values()]
        sizes = [layer.numel() for layer in layers]
        count = sum(sizes) - removed(check_sparsity(sparsity), sum(sizes))
        protected = [min(size, math.ceil(self.minimum * size - 1e-9)) for size in sizes]
        if sum(protected) > count:
            raise PruningError(
                f"{self}: expected a minimum that the budget of {count} units covers, got one of {sum(protected)} units"
            )
        if any(protected):
            kept = [keep_highest(layer[None], least)[0] for layer, least in zip(layers, protected)]
            layers = [layer.masked_fill(keep, torch.inf) for layer, keep in zip(layers, kept)]
        chosen = keep_highest(torch.cat(layers)[None], count)[0]
        counts = [int(part.sum()) for part in torch.split(chosen, sizes)]
        return {name: (size - count) / size if size else 0.0 for name, size, count in zip(scores, sizes, counts)}

    def _scaled(self, layer: Tensor) -> Tensor:
        """One layer's scores on the common scale; those that are all zero stay as they are."""
        alive = layer[torch.isfinite(layer)]
        if self.normalise is None or not alive.numel():
            return layer
        scale = SCALES[self.normalise](alive)
        return layer / scale if scale > 0 else layer
