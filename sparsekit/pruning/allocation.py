"""One budget in, a sparsity per layer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsekit.patterns.base import check_sparsity, keep_highest, removed


class Allocation(ABC):
    """Shares one budget of zeros among layers."""

    compares_scores: ClassVar[bool] = False
    """Whether the values of the scores matter; otherwise only their shapes are read."""

    @abstractmethod
    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return each layer's sparsity, in [0, 1]; 1 means that a layer loses everything.

        Args:
            scores: by parameter name; where :attr:`compares_scores`, the scores of a layer's units, higher = keep,
                otherwise anything of the weight's shape.
            sparsity: fraction of all units that go, in [0, 1).

        Raises:
            PatternError: the sparsity is outside [0, 1).
        """


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same sparsity everywhere."""

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``sparsity`` for each layer; see :meth:`Allocation.sparsities`."""
        return dict.fromkeys(scores, check_sparsity(sparsity))


@dataclass(frozen=True)
class Global(Allocation):
    """One ranking across all layers: exactly ``floor(sparsity * units)`` units go, wherever the lowest scores are.

    Among equal scores the earlier layer, and in it the lower index, stays.

    Source: Lee, Ajanthan, Torr 2019, "SNIP", eq. 6, ranks across layers; scores are taken as they are.
    """

    compares_scores: ClassVar[bool] = True

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the fraction of each layer's units below the common threshold; see :meth:`Allocation.sparsities`."""
        if not scores:
            return {}
        device = next(iter(scores.values())).device
        ranked = torch.cat([units.reshape(-1).to(device, torch.float64) for units in scores.values()])
        count = ranked.numel() - removed(check_sparsity(sparsity), ranked.numel())
        kept = keep_highest(ranked.reshape(1, -1), count).reshape(-1)
        sizes = [units.numel() for units in scores.values()]
        counts = [int(part.sum()) for part in torch.split(kept, sizes)]
        return {name: (size - count) / size if size else 0.0 for name, size, count in zip(scores, sizes, counts)}


@dataclass(frozen=True)
class ERK(Allocation):
    """Density in proportion to ``sum(dims) / prod(dims)`` of a weight: large layers lose more.

    A layer whose density would exceed 1 stays dense, and the others carry what it does not lose.

    Source: Evci, Gale, Menick, Castro, Elsen 2020, "Rigging the Lottery", section 3(1), kernel dimensions included.
    """

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return ``1 - density`` from the shapes alone; see :meth:`Allocation.sparsities`."""
        size = {name: weight.numel() for name, weight in scores.items() if weight.numel()}
        raw = {name: sum(scores[name].shape) / size[name] for name in size}
        kept = (1.0 - check_sparsity(sparsity)) * sum(size.values())
        dense: set[str] = set()
        while True:
            open_layers = [name for name in size if name not in dense]
            room = kept - sum(size[name] for name in dense)
            scale = room / sum(raw[name] * size[name] for name in open_layers) if open_layers else 0.0
            full = {name for name in open_layers if scale * raw[name] > 1.0}
            if not full:
                break
            dense |= full
        return {name: 1.0 - scale * raw[name] if name in size and name not in dense else 0.0 for name in scores}


ALLOCATIONS: tuple[type[Allocation], ...] = (Uniform, Global, ERK)
