"""What the user says, layer by layer."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import Tensor

from sparsekit.errors import LayerError, PruningError
from sparsekit.patterns.base import check_sparsity
from sparsekit.pruning.allocations.base import Allocation, check_share
from sparsekit.pruning.problem import ModelProblem

AGREES = 0.005
"""A sparsity that is asked for and one that follows from the list may differ by so much: people round."""


@dataclass(frozen=True)
class PerLayer(Allocation):
    """A sparsity for each layer, by name.

    The total is as asked: layers that are not listed share what is left of the overall sparsity equally. Where every
    layer is listed, or there is a default, the total follows from the list; then the overall sparsity may be None, and
    contradicts the list unless it is that total. A method of several rounds gets to the list geometrically.

    Args:
        layers: sparsity in [0, 1) by name of a parameter or layer (``"head.weight"``, ``"head"``) or by a pattern of
            names (``"encoder.*.query"``). An exact name wins over patterns, and the first pattern over later ones.
        default: sparsity of the layers that are not listed; None gives them what is left.

    Raises:
        PruningError: a sparsity is outside [0, 1).
    """

    layers: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    default: float | None = None
    total: float | None = field(default=None, repr=False)
    """Where the rounds of a method lead to; set by :meth:`prepare`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", self.items)
        for name, sparsity in self.items:
            check_share(f"PerLayer: {name}", sparsity)
        if self.default is not None:
            check_share("PerLayer: default", self.default)

    @property
    def items(self) -> tuple[tuple[str, float], ...]:
        """The list as pairs."""
        return tuple(self.layers.items() if isinstance(self.layers, Mapping) else self.layers)

    def budget(self, requested: float | None, sizes: Mapping[str, int]) -> float | None:
        """Return the total that follows from the list, or else ``requested``; see :meth:`Allocation.budget`."""
        listed = self._listed(sizes)
        missing = [name for name in sizes if name not in listed]
        if missing:
            if requested is None:
                raise PruningError(
                    f"PerLayer: expected a sparsity for every layer, a default or an overall sparsity, got none for "
                    f"{missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}"
                )
            return requested
        total = math.fsum(listed[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
        if requested is not None and abs(check_sparsity(requested) - total) > AGREES:
            raise PruningError(
                f"PerLayer: expected an overall sparsity of None or {total:.4g}, which follows from the list, "
                f"got {requested:g}"
            )
        return total

    def prepare(self, problem: ModelProblem) -> PerLayer:
        """Return this list with the total that the rounds of a method lead to; see :meth:`Allocation.prepare`."""
        self._listed({target.name: target.weight.numel() for target in problem.targets})
        return replace(self, total=problem.sparsity)

    def sparsities(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
        """Return the listed sparsities, and the rest for the others; see :meth:`Allocation.sparsities`."""
        fraction = check_sparsity(sparsity)
        sizes = {name: weight.numel() for name, weight in scores.items()}
        way = 1.0
        if self.total is not None and fraction < self.total:
            way = math.log1p(-fraction) / math.log1p(-self.total)
        found = {name: 1.0 - (1.0 - share) ** way for name, share in self._listed(sizes).items()}
        others = sum(size for name, size in sizes.items() if name not in found)
        gone = fraction * sum(sizes.values()) - math.fsum(share * sizes[name] for name, share in found.items())
        rest = gone / others if others else 0.0
        if not -1e-9 <= rest <= 1.0:
            raise PruningError(
                f"PerLayer: expected an overall sparsity that the list leaves possible, got {fraction:g}, for which "
                f"the other layers would have to lose {rest:.1%}"
            )
        return {name: found.get(name, max(0.0, rest)) for name in scores}

    def _listed(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The sparsity of each layer that has one of its own, or by default."""
        names = {name: {name, name.removesuffix(".weight")} for name in sizes}
        found: dict[str, float] = {}
        exact_first = sorted(self.items, key=lambda item: all(item[0] not in known for known in names.values()))
        for key, sparsity in exact_first:
            exact = [name for name, known in names.items() if key in known]
            matched = exact or [name for name, known in names.items() if any(fnmatchcase(n, key) for n in known)]
            if not matched and sizes:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise LayerError(f"PerLayer: expected names of layers that are pruned, got {key!r}{hint}")
            for name in matched:
                found.setdefault(name, float(sparsity))
        return found if self.default is None else {name: found.get(name, self.default) for name in sizes}
