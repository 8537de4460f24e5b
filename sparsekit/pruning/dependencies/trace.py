"""Follow the axes of every tensor through one run of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsekit.batches import call_model, describe, evaluating, tensors_in
from sparsekit.errors import InputError
from sparsekit.pruning.dependencies import arithmetic, layout
from sparsekit.pruning.dependencies.axes import Axis, Leaf, ends, fresh, pin, resolve, settle, size_of
from sparsekit.pruning.dependencies.call import Axes, Call, Table


@dataclass(frozen=True)
class Place:
    """Where a leaf is found: in dimension ``dim`` of a parameter or buffer, at ``index``.

    Args:
        name: of the parameter or buffer.
        tensor: itself.
        dim: the dimension.
        index: ``(slices, leaf's size, repeats)``: the indices of the dimension that belong to each index of the leaf.
            Slices may be put into different orders, and repeats go along.
    """

    name: str
    tensor: Tensor
    dim: int
    index: Tensor


@dataclass(frozen=True)
class Dependencies:
    """The axes of all parameters and buffers of a model that a run has used."""

    axes: dict[str, Axes]
    tensors: dict[str, Tensor]
    unknown: frozenset[str]

    def leaves(self) -> list[Leaf]:
        """Every leaf, in the order of the parameters."""
        found: dict[Leaf, None] = {}
        for axes in self.axes.values():
            for axis in axes:
                found.update(dict.fromkeys(ends(axis)))
        return list(found)

    def places(self, leaf: Leaf) -> list[Place]:
        """Everywhere that ``leaf`` is."""
        return [
            Place(name, self.tensors[name], dim, places_in(axis, leaf))
            for name, axes in self.axes.items()
            for dim, axis in enumerate(axes)
            if leaf in set(ends(axis))
        ]


def follow(model: nn.Module, example_inputs: Any) -> Dependencies:
    """Run ``model`` in eval mode on ``example_inputs``, and find out which axes of its parameters belong together.

    What other inputs or the training mode would reach is not seen. The model is left as it was.

    Raises:
        InputError: the model refuses the inputs.
    """
    table = Table(model)
    for value in tensors_in(example_inputs):
        table.known[value] = [fresh(size, "is an input of the model") for size in value.shape]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), _Tracer(table):
            output = call_model(model, example_inputs)
    except Exception as error:
        raise InputError(
            f"example_inputs: expected what the model takes, got {describe(example_inputs)}, and the model raised "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    for tensor in outputs_of(output):
        table.pin(tensor, "is an output of the model")
    return _finish(table)


def outputs_of(value: Any) -> list[Tensor]:
    """The tensors in what a model returns, objects with attributes included."""
    if not isinstance(value, (Tensor, tuple, list, dict)) and hasattr(value, "__dict__"):
        value = vars(value)
    return list(tensors_in(value))


def _finish(table: Table) -> Dependencies:
    """Allow an order per slice only where the slices are in the same dimension of each parameter."""
    axes = {name: table.known[tensor] for tensor, name in table.parameters.items() if tensor in table.used}
    for dims in axes.values():
        for axis in dims:
            _settle(axis)
    tensors = {name: tensor for tensor, name in table.parameters.items()}
    return Dependencies(axes, tensors, frozenset(table.unknown))


def _settle(axis: Axis) -> None:
    """Let no order depend on a leaf that is not in the same product, and fix what is in one product twice."""
    parts = resolve(axis)
    settle([(part,) for part in parts if part.pieces is None])
    inside = [set(ends((part,))) for part in parts]
    for number, leaves in enumerate(inside):
        for others in inside[:number]:
            pin(tuple(leaves & others), "meets itself in one axis")
    for part in parts:
        for piece in part.pieces or []:
            around = set(ends(piece))
            for leaf in around:
                leaf.within = leaf.within & around
            _settle(piece)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of each operation as it runs."""

    def __init__(self, table: Table) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        call = Call(self.table, func, args, kwargs or {})
        returned = list(tensors_in(out))
        call.shapes = [tensor.shape for tensor in returned]
        found = _apply(func, call)
        if found is None or not _fit(found, returned):
            self._give_up(call, returned)
        else:
            for tensor, axes in zip(returned, found):
                self.table.put(tensor, axes)
        return out

    def _give_up(self, call: Call, returned: Sequence[Tensor]) -> None:
        """Fix the order of everything that goes into or comes out of an operation without a rule."""
        self.table.unknown.add(call.name)
        reason = f"goes through {call.name}, which cannot be followed"
        for tensor in call.tensors:
            self.table.pin(tensor, reason)
        for tensor in returned:
            if tensor not in self.table.known:
                self.table.known[tensor] = [fresh(size, reason) for size in tensor.shape]
            self.table.pin(tensor, reason)


def _apply(func: Any, call: Call) -> list[Axes] | None:
    """The axes that the rule of ``func`` gives to its outputs; None where there is no rule, or it does not apply."""
    if any(tensor.numel() == 0 for tensor in call.tensors):
        return None
    name = call.name.removeprefix("aten.").removeprefix("aten::")
    rule = layout.RULES.get(name) or arithmetic.RULES.get(name) or arithmetic.rule_of(func)
    return None if rule is None else rule(call)


def _fit(found: Sequence[Axes], returned: Sequence[Tensor]) -> bool:
    """Whether the axes are as long as the tensors' sides."""
    return len(found) == len(returned) and all(
        [size_of(axis) for axis in axes] == list(tensor.shape) for axes, tensor in zip(found, returned)
    )


def places_in(axis: Axis, leaf: Leaf) -> Tensor:
    """The indices of ``axis`` that belong to each index of ``leaf``, ``(slices, leaf's size, repeats)``."""
    return torch.cat(list(_walk(resolve(axis), leaf, torch.arange(size_of(axis)), leaf.within)), dim=2)


def _walk(axis: Axis, leaf: Leaf, index: Tensor, within: set[Leaf]) -> Iterator[Tensor]:
    """Yield the indices of ``leaf`` in each piece of ``axis`` that has it; ``index`` numbers the whole axis."""
    grid = index.reshape([part.size for part in axis])
    for dim, part in enumerate(axis):
        if part is leaf:
            outer = sorted((d for d, other in enumerate(axis) if other in within), key=lambda d: axis[d].number)
            rest = [d for d in range(len(axis)) if d != dim and d not in outer]
            moved = grid.permute(*outer, dim, *rest)
            yield moved.reshape(-1, leaf.size, max(1, grid.numel() // leaf.size // prod(grid.shape[d] for d in outer)))
        elif part.pieces is not None and leaf in set(ends((part,))):
            start = 0
            for piece in part.pieces:
                size = size_of(piece)
                if leaf in set(ends(piece)):
                    inner = grid.narrow(dim, start, size)
                    yield from _inside(resolve(piece), leaf, inner, dim, within)
                start += size


def _inside(piece: Axis, leaf: Leaf, grid: Tensor, dim: int, within: set[Leaf]) -> Iterator[Tensor]:
    """The same for a piece that lies along ``dim`` of ``grid``; the other dimensions are repeats."""
    moved = grid.movedim(dim, 0).reshape(grid.shape[dim], -1)
    for column in moved.unbind(1):
        yield from _walk(piece, leaf, column, within)
