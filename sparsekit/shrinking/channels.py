"""What one run of the model says about the channels of its layers, to be held against what the graph says."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsekit.pruning.dependencies import Axis, Dependencies, Leaf, ends, resolve
from sparsekit.shrinking.graph import Element, Side

Place = tuple[tuple[Leaf, int], ...]
"""Where an index of an axis lies along each of the axis's leaves, the outermost first."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a layer as the rest of the network sees them.

    Args:
        runs: per output, the number of the head that it belongs to; every output has its own where there are no heads.
        reasons: per output, why it has to stay, or None.
        joined: whether the axis is of several parts behind one another.
    """

    runs: list[int]
    reasons: list[str | None]
    joined: bool


class Channels:
    """The axes of a model's weights.

    Args:
        dependencies: from :func:`~sparsekit.pruning.dependencies.follow`.
        layers: those that can lose channels, by name; what else has an axis in common with them keeps it.
    """

    def __init__(self, dependencies: Dependencies, layers: Mapping[str, nn.Module]) -> None:
        self.axes, self.layers = dependencies.axes, layers
        self.foreign: dict[Leaf, str] = {}
        for name, axes in self.axes.items():
            if name.rpartition(".")[0] not in layers:
                self.foreign.update((leaf, name) for axis in axes for leaf in ends(axis))
        self._known: dict[Side, list[Place]] = {}

    def outputs(self, layer: str) -> Outputs | None:
        """The outputs of ``layer``; None where the run has not reached it."""
        name = f"{layer}.weight" if layer else "weight"
        if name not in self.axes:
            return None
        runs, reasons = self._read(resolve(self.axes[name][0]))
        return Outputs(runs, reasons, any(leaf.pieces is not None for leaf in resolve(self.axes[name][0])))

    def _read(self, axis: Axis) -> tuple[list[int], list[str | None]]:
        if not axis:
            return [0], [None]
        first, inner = axis[0], 1
        for leaf in axis[1:]:
            inner *= leaf.size
        runs: list[int] = []
        reasons: list[str | None] = []
        if first.pieces is None:
            meets = f"meets {self.foreign[first]}" if first in self.foreign else None
            runs, reasons = list(range(first.size)), [first.reason or meets] * first.size
        for piece in first.pieces or []:
            more, why = self._read(resolve(piece))
            runs += [len(runs) + run for run in more]
            reasons += why
        return [run for run in runs for _ in range(inner)], [why for why in reasons for _ in range(inner)]

    def agree(self, family: Iterable[Element]) -> bool:
        """Whether the run, too, has one channel of the network in ``family``."""
        placed = [(way, places[index]) for (layer, way), index in family if (places := self._along(layer, way))]
        outermost = {place[0][0] for way, place in placed if way == "out" and place}
        seen: dict[Leaf, int] = {}
        return all(
            seen.setdefault(leaf, index) == index for _, place in placed for leaf, index in place if leaf in outermost
        )

    def _along(self, layer: str, way: str) -> list[Place]:
        """The places of a layer's outputs or inputs; none where its weight does not number them one by one."""
        if (layer, way) not in self._known:
            module, axes = self.layers.get(layer), self.axes.get(f"{layer}.weight" if layer else "weight")
            grouped = isinstance(module, _ConvNd) and module.groups > 1 and way == "in"
            plain = isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)
            read = axes is not None and plain and not grouped and way != "both"
            self._known[layer, way] = list(_places(resolve(axes[way == "in"]))) if axes and read else []
        return self._known[layer, way]


def _places(axis: Axis) -> Iterator[Place]:
    """The place of each index of ``axis``."""
    parts: list[list[Place]] = []
    for leaf in axis:
        if leaf.pieces is None:
            parts.append([((leaf, index),) for index in range(leaf.size)])
        else:
            parts.append([place for piece in leaf.pieces for place in _places(resolve(piece))])
    for combination in itertools.product(*parts):
        yield tuple(itertools.chain.from_iterable(combination))
