"""Which channels of which layers are one channel of the network, as torch-pruning's dependency graph says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sparsekit.batches import call_model
from sparsekit.errors import PruningError
from sparsekit.pruning.dependencies import outputs_of

Side = tuple[str, str]
"""A layer's name and ``out`` or ``in``, for its outputs or inputs; ``both`` for one that works channel by channel."""
Element = tuple[Side, int]

WHOLE = (_BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU)
"""Layers that work channel by channel, so that a channel can go without the others."""


@dataclass
class Families:
    """Elements that stay or go as one.

    Args:
        parent: an element that each belongs to; itself for the first of a family.
        stuck: why a family stays whatever its layers say, by element.
        paired: sides that meet each other in a matrix product of activations (queries and keys).
        split: elements whose tensor is cut into parts somewhere.
    """

    parent: dict[Element, Element] = field(default_factory=dict)
    stuck: dict[Element, str] = field(default_factory=dict)
    paired: set[Side] = field(default_factory=set)
    split: set[Element] = field(default_factory=set)

    def root(self, element: Element) -> Element:
        """The first element of its family."""
        path = []
        while (up := self.parent.setdefault(element, element)) != element:
            path.append(element)
            element = up
        for one in path:
            self.parent[one] = element
        return element

    def join(self, one: Element, other: Element) -> None:
        """Make two families one."""
        self.parent[self.root(other)] = self.root(one)

    def members(self) -> dict[Element, list[Element]]:
        """Every family by its root."""
        found: dict[Element, list[Element]] = {}
        for element in self.parent:
            found.setdefault(self.root(element), []).append(element)
        return found


def trace(model: nn.Module, example_inputs: Any) -> Families:
    """Follow the channels of ``model`` through one run in eval mode.

    Args:
        model: a copy; it is left in eval mode and every parameter asks for a gradient.
        example_inputs: what the model takes.

    Raises:
        PruningError: torch-pruning cannot follow the model.
    """
    import torch_pruning

    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = torch_pruning.DependencyGraph()
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                model,
                example_inputs,
                forward_fn=call_model,
                output_transform=_differentiable,
                verbose=False,
            )
            return _families(graph, {module: name for name, module in model.named_modules()})
    except Exception as error:
        raise PruningError(
            f"shrink: expected a {type(model).__name__} that torch-pruning can follow, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _differentiable(output: Any) -> list[Tensor]:
    """The outputs that the trace can start from."""
    found = [tensor for tensor in outputs_of(output) if tensor.grad_fn is not None]
    if not found:
        raise ValueError("none of its outputs has a gradient")
    return found


def _families(graph: Any, names: dict[nn.Module, str]) -> Families:
    """Join what torch-pruning puts into one group under one index of the group's first layer."""
    families = Families()
    for group in graph.get_all_groups(root_module_types=(_ConvNd, nn.Linear)):
        root = (names[group[0].dep.target.module], "out")
        sides = {root}
        paired = False
        for item in group:
            node = item.dep.target
            operation = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
            paired = paired or operation.startswith(("ScaledDotProduct", "Bmm"))
            for index, first in zip(item.idxs, item.root_idxs):
                if first is None:
                    families.stuck.update({(root, i): "is repeated for several heads" for i in group[0].root_idxs})
                    continue
                for side in _sides(graph, item.dep, names):
                    families.join((root, first), (side, index))
                    sides.add(side)
                if type(node.module).__name__ in {"_SplitOp", "_SliceOp", "_UnbindOp"}:
                    families.split.add((root, first))
                if reason := _stuck(node.module, names):
                    families.stuck[root, first] = reason
        families.paired.update(sides if paired else ())
    return families


def _sides(graph: Any, dependency: Any, names: dict[nn.Module, str]) -> Iterator[Side]:
    """What of a layer the dependency means; nothing for an operation without parameters."""
    module = dependency.target.module
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return  # one slope for all channels
    if isinstance(module, WHOLE):
        yield names[module], "both"
    elif isinstance(module, (_ConvNd, nn.Linear)) and module in names:
        pruner = graph.get_pruner_of_module(module)
        ways = pruner.prune_out_channels == dependency.handler, pruner.prune_in_channels == dependency.handler
        yield from ((names[module], word) for word, meant in zip(("out", "in"), ways) if meant)


def _stuck(module: Any, names: dict[nn.Module, str]) -> str | None:
    """Why channels that reach ``module`` have to stay."""
    if module in names and not isinstance(module, (*WHOLE, _ConvNd, nn.Linear)):
        return f"goes through {names[module]}, a {type(module).__name__} that mixes its channels"
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)) and module.track_running_stats:
        return f"goes through {names[module]}, which keeps statistics"
    return None
