"""One call of an operation, as the rules see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from sparsekit.batches import tensors_in
from sparsekit.pruning.dependencies.axes import Axis, ends, fresh, pin, settle, size_of, unify

Axes = list[Axis]


class Table:
    """The axes of every tensor that is alive."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[Tensor, str] = {}
        self.known = WeakIdKeyDictionary()
        self.storages: dict[int, list[Tensor]] = {}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            self.parameters[value] = name
            self.known[value] = [fresh(size) for size in value.shape]
            self.storages.setdefault(value.untyped_storage().data_ptr(), []).append(value)
        self.used: set[Tensor] = set()
        self.unknown: set[str] = set()

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of ``tensor``; one that nobody has seen is a constant, and its order is fixed."""
        if tensor not in self.known:
            self.known[tensor] = [fresh(size, "meets a constant") for size in tensor.shape]
            for alias in self.storages.get(tensor.untyped_storage().data_ptr(), []) if tensor.numel() else []:
                self.pin(alias, "is read in a way that cannot be followed")
        if tensor in self.parameters:
            self.used.add(tensor)
        axes: Axes = self.known[tensor]
        return axes

    def put(self, tensor: Tensor, axes: Axes) -> None:
        """Remember the axes of ``tensor``; one that is known, because it was written into, gets both."""
        if tensor in self.known and len(self.known[tensor]) == len(axes):
            for old, new in zip(self.known[tensor], axes):
                unify(old, new)
        else:
            self.known[tensor] = axes
        settle(axes)

    def pin(self, tensor: Tensor, reason: str) -> None:
        """Fix the order of every axis of ``tensor``."""
        for axis in self.axes(tensor):
            pin(axis, reason)


class Call:
    """An operation with its arguments by name, and what it returned."""

    def __init__(self, table: Table, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.table = table
        self.name = str(func.overloadpacket)
        schema = func._schema.arguments
        self.values: dict[str, Any] = {one.name: one.default_value for one in schema if one.has_default_value()}
        self.values.update(zip((one.name for one in schema), args))
        self.values.update(kwargs)
        self.tensors = list(tensors_in(list(self.values.values())))
        self.shapes: list[torch.Size] = []

    def __getitem__(self, name: str) -> Any:
        """The argument called ``name``."""
        return self.values[name]

    def axes(self, name: str = "self") -> Axes:
        """The axes of the tensor argument called ``name``."""
        return self.table.axes(self.values[name])

    def optional(self, *names: str) -> list[Axes]:
        """The axes of those tensor arguments that are there."""
        return [self.axes(name) for name in names if isinstance(self.values.get(name), Tensor)]

    def dims(self, name: str = "dim", of: str = "self") -> list[int]:
        """The dimensions in the argument called ``name``, counted from 0; all of them where there is none."""
        rank = self.values[of].dim()
        value = self.values.get(name)
        if value is None or value == []:
            return list(range(rank))
        return [one % rank if rank else 0 for one in (value if isinstance(value, (list, tuple)) else [value])]

    def dim(self, name: str = "dim", of: str = "self") -> int:
        """The one dimension in the argument called ``name``."""
        return self.dims(name, of)[0]

    def hold(self, axis: Axis, what: str) -> None:
        """Fix the order of ``axis`` because this operation ``what``."""
        pin(axis, f"{what} ({self.name})")

    def new(self, size: int, what: str) -> Axis:
        """A new axis whose order this operation fixes."""
        return fresh(size, f"{what} ({self.name})")

    def mix(self, axes: Sequence[Axis], dims: Iterable[int]) -> None:
        """Values along ``dims`` meet each other: nothing else may have another order at each of their indices."""
        settle(axes, [leaf for dim in dims for leaf in ends(axes[dim])])


def unify_all(axes: Sequence[Axis]) -> Axis:
    """Unify axes that broadcast; return the one that is left, of size 1 where all are."""
    wide = [axis for axis in axes if size_of(axis) > 1]
    for axis in wide[1:]:
        unify(wide[0], axis)
    return wide[0] if wide else ()


def broadcast(*tensors: Axes) -> Axes:
    """Unify the axes of tensors that broadcast, lined up at their last."""
    rank = max(len(axes) for axes in tensors)
    padded = [[()] * (rank - len(axes)) + axes for axes in tensors]
    return [unify_all(column) for column in zip(*padded)]


def contract(one: Axis, other: Axis, together: Sequence[Axis]) -> None:
    """Sum products over two axes; ``together`` are the axes that the operands share."""
    unify(one, other)
    inside = set(ends(one))
    count = inside | {leaf for axis in together for leaf in ends(axis)}
    for leaf in inside:
        if leaf.within:
            leaf.within = leaf.within & count
