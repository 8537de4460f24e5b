"""Which layers a model calls, and with how large inputs."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparsekit.batches import call_model, describe, evaluating
from sparsekit.errors import InputError
from sparsekit.kernels.convolution import Size

Key = int | Size
"""Of a linear layer the batch size, the product of the leading dimensions; of a convolution ``(N, H, W)``."""
Calls = dict[str, Counter[Key]]
"""By layer name: how often it was called with each size."""

UNBATCHED: Size = (-1, -1, -1)
"""The size of an image that has no batch dimension."""


def observe(model: nn.Module, example_inputs: Any) -> Calls:
    """Run ``model`` once in eval mode and count the calls of each Linear and Conv2d; the model stays as it was.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).

    Raises:
        InputError: the model refuses the inputs.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    calls: Calls = {name: Counter() for name in layers}

    def count(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor):  # what else a layer with a forward of its own takes is its own affair
            calls[name][_key(layer, x)] += 1

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(partial(count, name), with_kwargs=True).remove)
        stack.enter_context(evaluating(model))
        try:
            call_model(model, example_inputs)
        except Exception as error:
            raise InputError(
                f"example_inputs: expected what {type(model).__name__} takes, got {describe(example_inputs)}: {error}"
            ) from error
    return calls


def is_empty(key: Key) -> bool:
    """Whether a call of this size has nothing to do."""
    return (key if isinstance(key, int) else key[0]) == 0


def _key(layer: nn.Module, x: Tensor) -> Key:
    if isinstance(layer, nn.Linear):
        return x.shape[:-1].numel()
    return (x.shape[0], x.shape[2], x.shape[3]) if x.dim() == 4 else UNBATCHED
