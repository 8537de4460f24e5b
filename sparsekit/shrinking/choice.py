"""Which channels go: those that every layer that reads them ignores, or can replace by a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsekit.errors import PruningError
from sparsekit.pruning.dependencies import Dependencies
from sparsekit.shrinking.channels import Channels
from sparsekit.shrinking.constants import Readings
from sparsekit.shrinking.graph import WHOLE, Element, Families, Side

Layers = dict[str, nn.Module]
LEAST = 1e-3
"""A constant takes over the weights of others that are up to a thousand times as large: three digits of a weight."""


def filters(module: nn.Module) -> Tensor:
    """The weight as ``(groups, outputs per group, inputs per group, taps)``."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    matrices = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    if isinstance(module, _ConvTransposeNd):
        matrices = matrices.transpose(0, 1)
    groups = module.groups if isinstance(module, _ConvNd) else 1
    return matrices.reshape(groups, -1, *matrices.shape[1:])


def depthwise(module: nn.Module) -> bool:
    """Whether a convolution works channel by channel."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def bordered(module: nn.Module) -> bool:
    """Whether a convolution puts zeros around its input."""
    if not isinstance(module, _ConvNd) or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str):
        return module.padding == "same" and max(module.kernel_size) > 1
    return any(module.padding)


def replaceable(module: nn.Module, values: Tensor) -> Tensor:
    """Which inputs of the constant ``values`` the layer can do without, given another constant beside a border."""
    if isinstance(module, _ConvTransposeNd) or (isinstance(module, _ConvNd) and module.groups > 1 and bordered(module)):
        return values == 0
    return ~values.isnan()


class Choice:
    """The families of a masked model, and which of them go.

    Args:
        layers: every module by name, weights masked.
        families: from :func:`~sparsekit.shrinking.graph.trace`.
        readings: from :func:`~sparsekit.shrinking.constants.read_constants`.
        dependencies: from :func:`~sparsekit.pruning.dependencies.follow`.
    """

    def __init__(self, layers: Layers, families: Families, readings: Readings, dependencies: Dependencies) -> None:
        self.layers, self.families, self.readings = layers, families, readings
        self.members = families.members()
        self.root = {element: root for root, elements in self.members.items() for element in elements}
        self.frozen = _frozen(layers, readings)
        self.channels = Channels(dependencies, self._free())
        self.outputs = {
            name: found
            for name, module in layers.items()
            if isinstance(module, (nn.Linear, _ConvNd))
            and not isinstance(module, _ConvTransposeNd)
            and (found := self.channels.outputs(name)) is not None
        }
        self.unread = {
            name: self._unread(name)
            for name, module in layers.items()
            if isinstance(module, (nn.Linear, _ConvNd)) and name not in self.frozen
        }
        grouped = {
            root
            for root, elements in self.members.items()
            if any(_is_grouped(layers[name]) for (name, _), _ in elements)
        }
        self.cut_anywhere = {side for root in grouped for side, _ in self.members[root]}
        self.gone = {root for root in self.members if self._can_go(root)}
        self._settle()

    def _free(self) -> Layers:
        """The layers that can lose channels."""
        kinds = (nn.Linear, _ConvNd, *WHOLE)
        return {name: m for name, m in self.layers.items() if isinstance(m, kinds) and name not in self.frozen}

    def _unread(self, name: str) -> Tensor:
        """Which inputs of a layer it ignores or can replace."""
        module = self.layers[name]
        silent = (filters(module) == 0).all(dim=3).all(dim=1).flatten()
        values = self.readings.values.get(name)
        return silent if values is None else silent | replaceable(module, values)

    def _can_go(self, root: Element) -> bool:
        """Whether nothing needs the family."""
        elements = self.members[root]
        if any(element in self.families.stuck for element in elements):
            return False
        split = any(element in self.families.split for element in elements)
        if not any(way == "in" for (_, way), _ in elements) or (split and self._joined(elements)):
            return False
        if not all(self._may_go(side, index) for side, index in elements):
            return False
        if not self.channels.agree(elements):
            (name, _), index = root
            raise PruningError(
                f"{name}: expected outputs that can be followed, got {index}, for which torch-pruning finds other "
                f"channels than the run does"
            )
        return True

    def _joined(self, elements: Iterable[Element]) -> bool:
        """Whether the channels lie side by side with others, in a tensor that is cut where it is always cut."""
        return any(way == "out" and name in self.outputs and self.outputs[name].joined for (name, way), _ in elements)

    def _may_go(self, side: Side, index: int) -> bool:
        """Whether one layer agrees."""
        (name, way), module = side, self.layers[side[0]]
        if name in self.frozen:
            return False
        if way == "both":
            return True
        if way == "in":
            return depthwise(module) or bool(self.unread[name][index])
        if name not in self.outputs:
            return isinstance(module, _ConvTransposeNd)
        found = self.outputs[name]
        alone = len(set(found.runs)) == len(found.runs)
        return found.reasons[index] is None and not (alone and side in self.families.paired)

    def _settle(self) -> None:
        """Take families back until every layer keeps a shape it can have."""
        sides = {side for elements in self.members.values() for side, _ in elements}
        before = -1
        while before != len(self.gone):
            before = len(self.gone)
            for side in sorted(sides):
                self.gone -= set(self._taken_back(side))

    def _taken_back(self, side: Side) -> Iterator[Element]:
        """Families that have to stay because of one layer."""
        name, way = side
        module = self.layers[name]
        going = self.going(side)
        if all(going):
            yield self.root[side, 0]
        if way == "out" and name in self.outputs and side not in self.cut_anywhere:
            runs = self.outputs[name].runs
            broken = {run for run, goes in zip(runs, going) if not goes} if len(set(runs)) < len(runs) else set()
            yield from (self.root[side, i] for i, run in enumerate(runs) if going[i] and run in broken)
        if isinstance(module, _ConvNd) and _is_grouped(module):
            yield from self._uneven(name, module.groups, way)
        elif way == "in" and bordered(module) and not depthwise(module) and name in self.readings.values:
            yield from self._needed(name, torch.tensor(going))

    def _needed(self, name: str, going: Tensor) -> Iterator[Element]:
        """A constant that a convolution with a border needs, to give the others' weights to."""
        values = self.readings.values[name].cpu().double().nan_to_num(0.0).abs()
        silent = (filters(self.layers[name]) == 0).flatten(3).all(dim=3).all(dim=1).flatten().cpu()
        lost = torch.where(going & ~silent, values, 0.0)
        if float(torch.where(going, 0.0, values).max()) < LEAST * float(lost.max()):
            yield self.root[(name, "in"), int(lost.argmax())]

    def _uneven(self, name: str, groups: int, way: str) -> Iterator[Element]:
        """What makes the groups of a convolution differ in size, unless the whole group goes."""
        inputs, outputs = (torch.tensor(self.going((name, end))).view(groups, -1) for end in ("in", "out"))
        whole = inputs.all(dim=1) & outputs.all(dim=1)
        mine = inputs if way == "in" else outputs
        allowed = min(int(mine[~whole].sum(dim=1).min()), mine.shape[1] - 1) if not bool(whole.all()) else 0
        for group in (~whole).nonzero().flatten().tolist():
            for place in mine[group].nonzero().flatten().tolist()[allowed:]:
                yield self.root[(name, way), group * mine.shape[1] + place]

    def going(self, side: Side) -> list[bool]:
        """Which channels of a side of a layer go."""
        return [self.root.get((side, index)) in self.gone for index in range(_width(self.layers[side[0]], side[1]))]

    def refuse_unknown(self) -> None:
        """Raise :class:`PruningError` where a filter lost all its weights and what follows it cannot be followed."""
        for name, found in self.outputs.items():
            dead = (filters(self.layers[name]) == 0).flatten(2).all(dim=2).flatten()
            for index in dead.nonzero().flatten().tolist():
                reason = found.reasons[index]
                if reason is not None and "cannot be followed" in reason:
                    raise PruningError(f"{name}: expected outputs that can be followed, got {index}, which {reason}")


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups > 1 and not depthwise(module)


def _width(module: nn.Module, way: str) -> int:
    """How many channels a side of a layer has."""
    if isinstance(module, nn.Linear):
        return module.in_features if way == "in" else module.out_features
    if isinstance(module, _ConvNd):
        return module.in_channels if way == "in" else module.out_channels
    return int(getattr(module, "num_features", 0) or getattr(module, "num_parameters", 0))


def _frozen(layers: Layers, readings: Readings) -> set[str]:
    """Names of layers that keep their shape: called more than once or past their module, tied, or computed."""
    owners: dict[int, int] = {}
    for module in layers.values():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        name
        for name, module in layers.items()
        if readings.calls.get(name, 0) != 1
        or hasattr(module, "parametrizations")
        or (isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module._parameters.get("weight"), nn.Parameter))
        or any(owners[id(p)] > 1 for p in module._parameters.values() if p is not None)
        or (isinstance(module, _ConvTransposeNd) and module.groups > 1)
        or (isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels != module.in_channels)
    }
