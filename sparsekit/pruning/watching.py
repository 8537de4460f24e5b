"""Watch what the layers of a model get as input while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.batches import evaluating
from sparsekit.pruning.statistics import Target, forward

Run = Callable[[int, Any], object]


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
def watching(targets: Sequence[Target], see: Callable[[Target, nn.Module, Tensor], None]) -> Iterator[None]:
    """Call ``see(target, layer, input)`` whenever a layer of ``targets`` is about to run."""

    def hook(target: Target, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(target, layer, args[0] if args else kwargs["input"])

    with ExitStack() as stack:
        for target in targets:
            for layer in target.layers:
                handle = layer.register_forward_pre_hook(partial(hook, target), with_kwargs=True)
                stack.callback(handle.remove)
        yield


def unpadded(layer: nn.Module, inputs: Tensor, batch: Any) -> Tensor:
    """``inputs`` without the tokens that the batch's attention mask marks as padding, where the two fit."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(layer, nn.Linear) or not isinstance(mask, Tensor) or mask.shape != inputs.shape[:-1]:
        return inputs
    return inputs[mask.to(inputs.device, torch.bool)]
