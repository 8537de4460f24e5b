"""The choice made for one layer, from its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sparsekit.kernels
from sparsekit.formats import Dense
from sparsekit.mask import Mask
from sparsekit.planning.cache import Times
from sparsekit.planning.measure import EAGER

GAIN = 1.05
"""A layer is replaced only where it gets faster by this factor."""


@dataclass(frozen=True)
class Way:
    """One way to run a layer: a format, and its fastest kernel at each batch size.

    Args:
        format: the format's name.
        kernels: kernel name by batch size.
        seconds: for all calls of the layer that the example inputs make.
    """

    format: str
    kernels: dict[int, str]
    seconds: float


@dataclass(frozen=True)
class LayerPlan:
    """What was measured for one layer, and what was chosen.

    Args:
        name: as in ``named_modules``.
        mask: what stays.
        calls: how often the example inputs call the layer with each batch size.
        chosen: the way to run it; None leaves the layer as it is.
        dense: the fastest dense way.
        eager: the layer as it is, in seconds for all calls.
        reason: why no sparse way was chosen, or "".
    """

    name: str
    mask: Mask
    calls: dict[int, int] = field(default_factory=dict)
    chosen: Way | None = None
    dense: Way | None = None
    eager: float = 0.0
    reason: str = ""

    @property
    def sparse(self) -> bool:
        """Whether a sparse format was chosen."""
        return self.chosen is not None and self.chosen.format != Dense.name

    @property
    def seconds(self) -> float:
        """What all calls of the layer take as chosen."""
        return self.chosen.seconds if self.chosen else self.eager

    def as_json(self) -> dict[str, Any]:
        """Return the plan of this layer as JSON types; times are in microseconds for all calls."""
        return {
            "layer": self.name,
            "pattern": str(self.mask.pattern),
            "remainder": str(self.mask.remainder),
            "shape": list(self.mask.shape),
            "sparsity": self.mask.sparsity,
            "calls": {str(batch): count for batch, count in self.calls.items()},
            "format": self.chosen.format if self.chosen else None,
            "kernels": {str(b): k for b, k in self.chosen.kernels.items()} if self.chosen else {},
            "eager_us": self.eager * 1e6,
            "dense_us": self.dense.seconds * 1e6 if self.dense else None,
            "chosen_us": self.seconds * 1e6,
            "reason": self.reason,
        }


def decide(name: str, mask: Mask, calls: Mapping[int, int], times: Mapping[int, Times]) -> LayerPlan:
    """Choose for one layer.

    A sparse format is chosen where it beats the fastest dense way by :data:`GAIN`; else prepacked dense where it beats
    the layer as it is by as much; else nothing.

    Args:
        name: the layer.
        mask: what stays.
        calls: how often it is called, by batch size.
        times: seconds by kernel name, by batch size.
    """
    formats = {kernel.name: kernel.format.name for kernel in sparsekit.kernels.KERNELS}
    ways = {family: way for family in sorted(set(formats.values())) if (way := _way(family, formats, calls, times))}
    dense = ways.pop(Dense.name)
    eager = sum(count * times[batch][EAGER] for batch, count in calls.items())
    best = min(ways.values(), key=lambda way: way.seconds, default=None)
    chosen, reason = None, ""
    if best is not None and best.seconds * GAIN <= dense.seconds:
        chosen = best
    else:
        reason = _why_not(mask, best, dense)
        if dense.seconds * GAIN <= eager:
            chosen = dense
    return LayerPlan(name, mask, dict(calls), chosen, dense, eager, reason)


def _way(family: str, formats: Mapping[str, str], calls: Mapping[int, int], times: Mapping[int, Times]) -> Way | None:
    """The fastest kernel of ``family`` at each batch size, or None where one batch size has none."""
    kernels, seconds = {}, 0.0
    for batch, count in calls.items():
        own = {name: time for name, time in times[batch].items() if formats.get(name) == family}
        if not own:
            return None
        kernels[batch] = min(own, key=lambda name: own[name])
        seconds += count * own[kernels[batch]]
    return Way(family, kernels, seconds)


def _why_not(mask: Mask, best: Way | None, dense: Way) -> str:
    if mask.sparsity == 0.0:
        return "no zeros"
    if best is None:
        return "no sparse kernel runs every batch size"
    kernels = ", ".join(sorted(set(best.kernels.values())))
    return f"{kernels} runs at {dense.seconds / best.seconds:.2f}x dense, {GAIN:g}x is needed"
