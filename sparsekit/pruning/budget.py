"""How a budget of kept weights is met exactly by layers that may neither lose nor keep more than all they have."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping

from sparsekit.errors import PruningError


def fit(
    start: Mapping[str, float], slope: Mapping[str, float], sizes: Mapping[str, float], kept: float, low: float = 0.0
) -> dict[str, float]:
    """Return the densities ``clip(start + t * slope, low, 1)`` with the one ``t`` for which they keep ``kept``.

    What a clipped layer cannot take is so carried by the others. The sum of ``sizes * density`` is piecewise linear in
    ``t``: it is bracketed between two of its bends, and solved there without iteration.

    Args:
        start: density of each layer before anything is moved.
        slope: how fast it moves, > 0.
        sizes: what a density of 1 keeps.
        kept: what all layers keep together.
        low: smallest density, in [0, 1].

    Raises:
        PruningError: ``kept`` is below what ``low`` keeps.
    """
    full = [name for name, size in sizes.items() if size > 0]
    total = math.fsum(sizes[name] for name in full)
    check_minimum(low, kept / total if total else 1.0)

    def densities(t: float) -> dict[str, float]:
        return {name: min(1.0, max(low, start[name] + t * slope[name])) for name in full}

    def sum_at(t: float) -> float:
        return math.fsum(sizes[name] * density for name, density in densities(t).items())

    bends = sorted((edge - start[name]) / slope[name] for name in full for edge in (low, 1.0))
    found = dict.fromkeys(sizes, 1.0)  # what is empty loses nothing
    if not bends:
        return found
    above = min(bisect.bisect_left(bends, kept, key=sum_at), len(bends) - 1)
    below = max(above - 1, 0)
    least, most = sum_at(bends[below]), sum_at(bends[above])
    way = (kept - least) / (most - least) if most > least else 1.0
    found.update(densities(bends[below] + min(1.0, max(0.0, way)) * (bends[above] - bends[below])))
    return found


def check_minimum(minimum: float, density: float) -> None:
    """Raise :class:`PruningError` where no layer can keep ``minimum`` if all together keep ``density``."""
    if minimum > density * (1 + 1e-9):
        raise PruningError(
            f"minimum: expected a density that the budget leaves to every layer, at most {density:.4g}, got {minimum:g}"
        )


def shared_out(wanted: list[float], total: int) -> list[int]:
    """Round ``wanted``, which add up to about ``total``, to whole numbers that do: the largest fractions round up."""
    counts = [math.floor(value + 1e-9) for value in wanted]
    order = sorted(range(len(wanted)), key=lambda i: (counts[i] - wanted[i], i))
    for i in order[: max(0, total - sum(counts))]:
        counts[i] += 1
    return counts
