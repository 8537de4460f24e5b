"""The repeated blocks of a model, and what goes into them and comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparsekit.batches import describe, tensors_in
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics import ModelView, Target
from sparsekit.pruning.watching import watched_eval


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a model that is looked at by itself, and the targets in it."""

    name: str
    module: nn.Module
    targets: tuple[Target, ...]


class Call(nn.Module):
    """A module called as it was in the model; what it was given stays as it is, whatever the module does to it.

    The attention mask is that of the batch, where it fits the first output: it says which tokens count.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, args: Any, kwargs: Any, attention_mask: Tensor | None = None) -> Tensor:
        """Return the first tensor of floats that the module returns."""
        del attention_mask
        return first_output(self.module(*_fresh(args), **_fresh(kwargs)))


def find_blocks(model: nn.Module, targets: Sequence[Target]) -> list[Block]:
    """Cut a model into its repeated blocks.

    Repeated are the modules of one class in an ``nn.ModuleList`` or ``nn.Sequential``, at least two of them, that hold
    targets without being layers themselves; the outermost such list counts. Layers outside are blocks of their own. A
    model without repeated blocks is one block.
    """
    owners = {id(layer): target for target in targets for layer in target.layers}
    taken: set[str] = set()
    found: list[Block] = []

    def take(name: str, module: nn.Module) -> None:
        inside = {owners[id(part)].name: owners[id(part)] for part in module.modules() if id(part) in owners}
        own = tuple(target for key, target in inside.items() if key not in taken)
        taken.update(inside)
        if own:
            found.append(Block(name, module, own))

    for name, module in _repeated(model, "", owners):
        take(name, module)
    if not found:
        return [Block("", model, tuple(targets))]
    for name, module in model.named_modules():
        if id(module) in owners:
            take(name, module)
    return found


def _repeated(module: nn.Module, name: str, owners: Mapping[int, Target]) -> Iterator[tuple[str, nn.Module]]:
    """The repeated blocks below ``module``, outermost first."""
    holders = {
        key: child
        for key, child in module.named_children()
        if id(child) not in owners and any(id(part) in owners for part in child.modules())
    }
    counts = Counter(type(child) for child in holders.values())
    for key, child in holders.items():
        path = f"{name}.{key}" if name else key
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and counts[type(child)] > 1:
            yield path, child
        else:
            yield from _repeated(child, path, owners)


def in_order(view: ModelView, blocks: Sequence[Block], *, keep: bool) -> tuple[list[Block], dict[str, list[Tensor]]]:
    """Run every batch once; return the blocks in the order of their first calls, and with ``keep`` all their outputs.

    Raises:
        CalibrationError: the model refuses a batch, or a block is never called.
    """
    outputs: dict[str, list[Tensor]] = {}
    order: list[str] = []

    def enter(name: str, *_: Any) -> None:
        if name not in order:
            order.append(name)

    def leave(name: str, module: nn.Module, args: Any, returned: Any) -> None:
        if keep:
            outputs.setdefault(name, []).append(first_output(returned).detach().clone())

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.module.register_forward_pre_hook(partial(enter, block.name)).remove)
            stack.callback(block.module.register_forward_hook(partial(leave, block.name)).remove)
        for index in range(len(view.batches)):
            _run(view, index)
    for block in blocks:
        if block.name not in order:
            raise CalibrationError(
                f"{block.targets[0].name}: expected batches that reach it, got {len(view.batches)} that do not"
            )
    return sorted(blocks, key=lambda block: order.index(block.name)), outputs


def calls_of(view: ModelView, block: Block) -> list[dict[str, Any]]:
    """Run every batch, and return each call of ``block`` as a batch of :class:`Call`."""
    calls: list[dict[str, Any]] = []
    masks: list[Tensor | None] = []

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append({"args": _fresh(args), "kwargs": _fresh(kwargs)})

    handle = block.module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        for index in range(len(view.batches)):
            batch, before = view.batches[index], len(calls)
            _run(view, index)
            mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
            masks += [mask if isinstance(mask, Tensor) else None] * (len(calls) - before)
    finally:
        handle.remove()
    return [call if mask is None else {**call, "attention_mask": mask} for call, mask in zip(calls, masks)]


def first_output(returned: Any) -> Tensor:
    """The first tensor of floats in what a module returned."""
    output = next((value for value in tensors_in(returned) if value.is_floating_point()), None)
    if output is None:
        raise CalibrationError(f"expected a block that returns a tensor of floats, got {describe(returned)}")
    return output


def _run(view: ModelView, index: int) -> None:
    batch = view.batches[index]
    try:
        with watched_eval(view.model):
            view.run(batch)
    except CalibrationError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"batches[{index}]: expected what the model takes, got {describe(batch)}, and it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _fresh(value: Any) -> Any:
    """``value`` with its tensors cloned, where they are in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(_fresh(item) for item in value)
    if type(value) is dict:
        return {key: _fresh(item) for key, item in value.items()}
    return value
