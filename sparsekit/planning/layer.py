"""The choice made for one layer, from its measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sparsekit.kernels
from sparsekit.formats import QUANTIZED_FORMATS
from sparsekit.kernels.base import Runs
from sparsekit.kernels.candidates import DENSE_FORMATS
from sparsekit.mask import Mask
from sparsekit.planning.cache import Times
from sparsekit.planning.jobs import AS_IS, EAGER, Orders
from sparsekit.planning.observe import Key

DENSE = tuple(family.name for family in DENSE_FORMATS)
ROUNDED = tuple(family.name for family in QUANTIZED_FORMATS)

GAIN = 1.05
"""A layer is replaced only where it gets faster by this factor."""


@dataclass(frozen=True)
class Way:
    """One way to run a layer: a format, and its fastest kernel at each size of input.

    Args:
        format: the format's name.
        kernels: kernel name by size of input.
        seconds: for all calls of the layer that the example inputs make.
    """

    format: str
    kernels: dict[Key, str]
    seconds: float


@dataclass(frozen=True)
class LayerPlan:
    """What was measured for one layer, and what was chosen.

    Args:
        name: as in ``named_modules``.
        mask: what stays.
        calls: how often the example inputs call the layer with each size of input.
        chosen: the way to run it; None leaves the layer as it is.
        dense: the fastest dense way.
        eager: the layer as it is, in seconds for all calls.
        reason: why no sparse way was chosen, or "".
        fused: names of the layers whose work a convolution takes over where it is replaced.
        order: of images in memory, in which a convolution was measured.
    """

    name: str
    mask: Mask
    calls: dict[Key, int] = field(default_factory=dict)
    chosen: Way | None = None
    dense: Way | None = None
    eager: float = 0.0
    reason: str = ""
    fused: tuple[str, ...] = ()
    order: Orders = "contiguous"

    @property
    def sparse(self) -> bool:
        """Whether a sparse format was chosen."""
        return self.chosen is not None and self.chosen.format not in DENSE

    @property
    def best_dense(self) -> float:
        """What all calls take in the fastest dense way, the layer as it is included."""
        return min(self.dense.seconds, self.eager) if self.dense else self.eager

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
            "calls": {key_name(key): count for key, count in self.calls.items()},
            "fused": list(self.fused),
            "format": self.chosen.format if self.chosen else None,
            "kernels": {key_name(key): name for key, name in self.chosen.kernels.items()} if self.chosen else {},
            "eager_us": self.eager * 1e6,
            "dense_us": self.best_dense * 1e6 if self.dense else None,
            "chosen_us": self.seconds * 1e6,
            "reason": self.reason,
        }


def key_name(key: Key) -> str:
    """Write a size of input: a number of tokens, or of images and their height and width."""
    return str(key) if isinstance(key, int) else "x".join(map(str, key))


def decide(name: str, mask: Mask, calls: Mapping[Key, int], times: Mapping[Key, Times]) -> LayerPlan:
    """Choose for one layer.

    A sparse format is chosen where it beats the fastest dense way by :data:`GAIN`; else prepacked dense where it beats
    the layer as it is by as much; else nothing. Ways that round to 8 bits, where they were measured, are ways like any
    other, that have to beat the exact ones by as much.

    Args:
        name: the layer.
        mask: what stays.
        calls: how often it is called, by size of input.
        times: seconds by kernel name, by size of input.
    """
    kernels: tuple[Runs[Any], ...] = (*sparsekit.kernels.KERNELS, *sparsekit.kernels.CONV_KERNELS)
    formats = {kernel.name: kernel.format.name for kernel in kernels}
    ways = {family: way for family in sorted(set(formats.values())) if (way := _way(family, formats, calls, times))}
    dense = min((ways.pop(family) for family in DENSE if family in ways), key=_cost)
    eager = sum(count * times[key].get(AS_IS, times[key].get(EAGER, math.inf)) for key, count in calls.items())
    best = min(ways.values(), key=_cost, default=None)
    chosen, reason = None, ""
    if best is not None and best.seconds * GAIN <= min(dense.seconds, eager):
        chosen = best
    else:
        reason = _why_not(mask, best, min(dense.seconds, eager))
        if dense.seconds * GAIN <= eager:
            chosen = dense
    return LayerPlan(name, mask, dict(calls), chosen, dense, eager, reason)


def _cost(way: Way) -> float:
    """Seconds, by which a way that rounds has to gain before it is better than an exact one."""
    return way.seconds * (GAIN if way.format in ROUNDED else 1.0)


def _way(family: str, formats: Mapping[str, str], calls: Mapping[Key, int], times: Mapping[Key, Times]) -> Way | None:
    """The fastest kernel of ``family`` at each size of input, or None where one size has none."""
    kernels, seconds = {}, 0.0
    for key, count in calls.items():
        own = {name: time for name, time in times[key].items() if formats.get(name) == family}
        if not own:
            return None
        kernels[key] = min(own, key=lambda name: own[name])
        seconds += count * own[kernels[key]]
    return Way(family, kernels, seconds)


def _why_not(mask: Mask, best: Way | None, dense: float) -> str:
    if mask.sparsity == 0.0:
        return "no zeros"
    if best is None:
        return "no sparse kernel runs every size of input"
    kernels = ", ".join(sorted(set(best.kernels.values())))
    return f"{kernels} runs at {dense / best.seconds:.2f}x dense, {GAIN:g}x is needed"
