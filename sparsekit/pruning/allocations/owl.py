"""More for the blocks with many outliers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation, check_share
from sparsekit.pruning.budget import fit
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.statistics import InputNorm
from sparsekit.pruning.surveying import surveyed

NUMBERED = re.compile(r"\d$")


@dataclass(frozen=True)
class OWL(Allocation):
    """Outlier-weighed layerwise sparsity: a block of layers keeps the more, the more outliers it holds.

    An outlier is an entry of ``|w_ij| * ||x_j||_2`` above ``multiple`` times the mean over all layers of its block. The
    blocks' shares of outliers are stretched to ``[0, 2 * width]`` and moved by one common amount, so that the mean
    density, weighted by the weights of a block, is as asked; where that leaves ``[minimum, 1]``, the others make up for
    it. Shares that are all equal give every block the same.

    A block is what shares the longest numbered prefix of names with another layer (``encoder.layer.3``); a layer that
    shares none is one by itself.

    Args:
        multiple: of the mean, above which an entry is an outlier, > 0.
        width: half of the range of densities, in [0, 0.5].
        minimum: smallest density of a layer, in [0, 1).

    Raises:
        PruningError: an argument is out of its range.

    Source: Yin et al. 2024, "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
    Sparsity".
    """

    multiple: float = 5.0
    width: float = 0.08
    minimum: float = 0.0
    outliers: tuple[tuple[str, float], ...] | None = field(default=None, repr=False)
    """Share of outliers in the block of each layer, by parameter name; found by :meth:`prepare`."""

    def __post_init__(self) -> None:
        check_share("minimum", self.minimum)
        if not self.multiple > 0 or not 0 <= self.width <= 0.5:
            raise PruningError(
                f"OWL: expected multiple > 0 and width in [0, 0.5], got {self.multiple!r} and {self.width!r}"
            )

    @property
    def needs_batches(self) -> bool:
        """Whether the outliers are still to be found."""
        return self.outliers is None

    def prepare(self, problem: ModelProblem) -> OWL:
        """Count the outliers of each block behind the layers as they are; see :meth:`Allocation.prepare`."""
        if self.outliers is not None:
            return self
        members: dict[str, list[str]] = {}
        for name, block in blocks([target.name for target in problem.targets]).items():
            members.setdefault(block, []).append(name)
        scores: dict[str, Tensor] = {}
        for target, stats in surveyed(problem, (InputNorm,)):
            weight, rows = target.weight.detach().double().abs(), max(1, stats[InputNorm].rows)
            norm = stats[InputNorm].norm(weight.shape[0]) / rows**0.5  # of one row: convolutions see more than others
            scores[target.name] = (weight * norm.reshape(weight.shape)).flatten()
        found = {block: self._share([scores[name] for name in names]) for block, names in members.items()}
        return replace(self, outliers=tuple((n, found[block]) for block, names in members.items() for n in names))

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return each block's sparsity for its layers; see :meth:`Allocation.sparsities`."""
        if self.outliers is None:
            raise PruningError(f"{self}: expected outliers, which prepare() finds, got none")
        sizes = {name: weight.numel() for name, weight in scores.items()}
        shares = {name: share for name, share in self.outliers if name in sizes}
        least, most = min(shares.values(), default=0.0), max(shares.values(), default=0.0)
        stretch = 2 * self.width / (most - least) if most > least else 0.0
        start = {name: stretch * (share - least) for name, share in shares.items()}
        kept = (1.0 - check_sparsity(sparsity)) * sum(sizes.values())
        densities = fit(start, dict.fromkeys(sizes, 1.0), sizes, kept, self.minimum)
        return {name: 1.0 - density for name, density in densities.items()}

    def _share(self, layers: list[Tensor]) -> float:
        """Share of outliers among all entries of a block."""
        entries = torch.cat([layer.to(layers[0].device) for layer in layers])
        return float((entries > self.multiple * entries.mean()).double().mean()) if entries.numel() else 0.0


def blocks(names: list[str]) -> dict[str, str]:
    """The block of each parameter: its longest prefix that ends in a number and is another's too, or its own name."""
    prefixes = {name: _numbered(name) for name in names}
    users = Counter(prefix for own in prefixes.values() for prefix in own)
    return {name: next((p for p in reversed(own) if users[p] > 1), name) for name, own in prefixes.items()}


def _numbered(name: str) -> list[str]:
    """The prefixes of ``name`` that end in a number, shortest first; the parameter's own module is none."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts[:-1]) if NUMBERED.search(part)]
