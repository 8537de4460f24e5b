"""Watch what the layers of a model get as input while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsekit.batches import evaluating
from sparsekit.pruning.statistics import Target, forward

Run = Callable[[int, Any], object]
See = Callable[[Target, nn.Module, Tensor], None]

SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})


class Reached(BaseException):
    """The layer that was waited for has got its input; not an Exception, so that no model swallows it."""


@contextmanager
def watched_eval(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and no fused transformer path that would skip the hooks; then everything as before."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def attempt(run: Run, index: int, batch: Any) -> None:
    """Run one batch until it ends or :class:`Reached`; name the batch that the model refuses."""
    with suppress(Reached):
        forward.attempt(partial(run, index), index, batch)


@contextmanager
def watching(targets: Sequence[Target], see: See) -> Iterator[None]:
    """Call ``see(target, layer, input)`` whenever a layer of ``targets`` is about to run."""

    def hook(target: Target, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(target, layer, args[0] if args else kwargs["input"])

    with ExitStack() as stack:
        for target in targets:
            for layer in target.layers:
                handle = layer.register_forward_pre_hook(partial(hook, target), with_kwargs=True)
                stack.callback(handle.remove)
        yield


@contextmanager
def watching_sums(
    targets: Sequence[Target], see: Callable[[Target, nn.Module, Tensor, Tensor | None], None]
) -> Iterator[None]:
    """Call ``see(target, layer, input, addend)`` when the output of a layer of ``targets`` has been used.

    ``addend`` is what the output itself is added to, with nothing but an idle dropout in between, as at the end of a
    residual branch; None where something else happens to it.
    """
    with _Sums() as sums, ExitStack() as stack:

        def hook(target: Target, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = args[0] if args else kwargs["input"]
            sums.expect(output, lambda addend: see(target, layer, value, addend))

        for target in targets:
            for layer in target.layers:
                handle = layer.register_forward_hook(partial(hook, target), with_kwargs=True)
                stack.callback(handle.remove)
        yield
        with suppress(Reached):
            sums.settle(None)


class _Sums(TorchFunctionMode):
    """Finds out what a tensor is added to when it is used for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Tensor | None = None
        self.tell: Callable[[Tensor | None], None] = lambda _: None

    def expect(self, output: Tensor, tell: Callable[[Tensor | None], None]) -> None:
        """Watch ``output`` from now on, and ``tell`` what it is added to."""
        self.settle(None)
        self.output, self.tell = output, tell

    def settle(self, addend: Tensor | None) -> None:
        """Tell, if something is watched."""
        waiting, self.output = self.output, None
        if waiting is not None:
            self.tell(addend)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.output is None or not any(arg is self.output for arg in args):
            return func(*args, **(kwargs or {}))
        if func in SUMS and len(args) == 2 and not kwargs:
            other = args[1] if args[0] is self.output else args[0]
            same = isinstance(other, Tensor) and other.shape == self.output.shape
            self.settle(other if same else None)
            return func(*args)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result is not self.output:
            self.settle(None)
        return result


def unpadded(layer: nn.Module, inputs: Tensor, batch: Any) -> Tensor:
    """``inputs`` without the tokens that the batch's attention mask marks as padding, where the two fit."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(layer, nn.Linear) or not isinstance(mask, Tensor) or mask.shape != inputs.shape[:-1]:
        return inputs
    return inputs[mask.to(inputs.device, torch.bool)]
