"""Run a model again and again, and compute nothing twice that cannot have changed.

Layer-by-layer calibration runs the model once per layer. Done naively that costs the square of the depth. Here the
output of every module that is finished, because all that it computed from is pruned already, is kept and handed out in
the next run, so that all runs together cost about one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsekit.batches import tensors_in

ROOM = 2 << 30
"""Bytes of outputs kept; what finds no room is computed again."""

Key = tuple[Any, ...]
"""Which call of a module: (key of the calling module's call, id of the module, count among its calls there)."""


@dataclass
class _Call:
    """A call in progress: how often it called each module, and which of the calls inside it are kept."""

    key: Key = ()
    counts: Counter[int] = field(default_factory=Counter)
    kept: list[Key] = field(default_factory=list)

    def enter(self, module: nn.Module) -> Key:
        self.counts[id(module)] += 1
        return (self.key, id(module), self.counts[id(module)])


@dataclass(frozen=True)
class _Output:
    """What a call returned, the parameters still to be pruned that it may depend on, and its tensors' versions."""

    value: Any
    uses: frozenset[int]
    versions: tuple[int, ...]
    size: int

    @property
    def intact(self) -> bool:
        """Whether nobody has written into the tensors since."""
        return self.versions == _versions(self.value)


class Replay:
    """A model whose finished modules answer from memory; a context manager that leaves the model as it was.

    Exact as long as modules compute from their inputs and parameters alone, as they do in eval mode: an output is
    handed out only in the same call of the same module for the same batch, before anything that has changed since is
    used, and never after somebody wrote into it.

    Args:
        model: the model to run, in eval mode.
        parameters: those that are going to change, each announced by :meth:`changed`.
        room: bytes of outputs that may be kept.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[Tensor], room: int = ROOM) -> None:
        self.model = model
        self.room = room
        self.pending = {id(parameter) for parameter in parameters}
        self.outputs: dict[Key, _Output] = {}
        self.copied: set[int] = set()  # modules whose outputs are written into by others
        self.stack: list[_Call] = []
        self.used: set[int] = set()
        self.next: frozenset[int] = frozenset()
        self.replaced: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> Replay:
        for module in self.model.modules():
            self.replaced.append((module, module.__dict__.get("forward")))
            module.forward = self._wrap(module, module.forward)
        return self

    def __exit__(self, *exception: object) -> None:
        for module, own in self.replaced:
            del module.forward
            if own is not None:
                module.forward = own
        self.outputs.clear()

    def run(self, before: Iterable[Tensor], forward: Callable[[Any], Any], index: int, batch: Any) -> Any:
        """Let ``forward`` run the model on ``batch``, number ``index``; the parameters ``before`` change next."""
        self.stack = [_Call((index,))]
        self.used = set()
        self.next = frozenset(id(parameter) for parameter in before)
        return forward(batch)

    def changed(self, parameter: Tensor) -> None:
        """Forget what depends on ``parameter``, which has got its final value."""
        self.pending.discard(id(parameter))
        for key in [key for key, output in self.outputs.items() if id(parameter) in output.uses]:
            self._forget(key)

    def _wrap(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        own = {id(parameter) for parameter in module.parameters(recurse=False)}

        def replayed(*args: Any, **kwargs: Any) -> Any:
            caller = self.stack[-1]
            key = caller.enter(module)
            if (output := self._recall(key, module)) is not None:
                self.used |= output.uses
                caller.kept.append(key)
                return _copy(output.value) if id(module) in self.copied else output.value
            call = _Call(key)
            self.stack.append(call)
            self.used |= own & self.pending
            given = _versions((args, kwargs))
            value = forward(*args, **kwargs)
            self.stack.pop()
            kept = given == _versions((args, kwargs)) and self._keep(key, module, value)
            for inner in call.kept if kept else ():
                self._forget(inner)
            caller.kept += [key] if kept else call.kept
            return value

        return replayed

    def _recall(self, key: Key, module: nn.Module) -> _Output | None:
        output = self.outputs.get(key)
        if output is None or output.uses & self.next:
            return None
        if output.intact:
            return output
        self.copied.add(id(module))
        self._forget(key)
        return None

    def _keep(self, key: Key, module: nn.Module, value: Any) -> bool:
        """Keep ``value`` unless it is about to change, cannot be watched, or finds no room."""
        if self.used & self.next or not _watchable(value):
            return False
        size = sum(tensor.nbytes for tensor in tensors_in(value))
        if size > self.room:
            return False
        self._forget(key)
        value = _copy(value) if id(module) in self.copied else value
        self.outputs[key] = _Output(value, frozenset(self.used), _versions(value), size)
        self.room -= size
        return True

    def _forget(self, key: Key) -> None:
        output = self.outputs.pop(key, None)
        self.room += output.size if output is not None else 0


def _versions(value: Any) -> tuple[int, ...]:
    """How often each tensor in ``value`` has been written into."""
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors_in(value))


def _watchable(value: Any) -> bool:
    """Whether ``value`` cannot change without its tensors' versions showing it."""
    if type(value) is tuple:
        return all(_watchable(item) for item in value)
    return value is None or (isinstance(value, Tensor) and not value.is_inference())


def _copy(value: Any) -> Any:
    """``value`` with its tensors cloned."""
    if isinstance(value, tuple):
        return tuple(_copy(item) for item in value)
    return value.clone() if isinstance(value, Tensor) else value
