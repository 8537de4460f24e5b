"""Which layers a model calls, and with how many tokens."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparsekit.batches import call_model, describe, evaluating
from sparsekit.errors import InputError

Calls = dict[str, Counter[int]]
"""By layer name: how often it was called with each batch size (the product of the leading dimensions)."""


def observe(model: nn.Module, example_inputs: Any) -> Calls:
    """Run ``model`` once in eval mode and count the calls of each ``nn.Linear``; the model stays as it was.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).

    Raises:
        InputError: the model refuses the inputs.
    """
    calls: Calls = {name: Counter() for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def count(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        calls[name][x.shape[:-1].numel()] += 1

    with ExitStack() as stack:
        for name in calls:
            hook = model.get_submodule(name).register_forward_pre_hook(partial(count, name), with_kwargs=True)
            stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        try:
            call_model(model, example_inputs)
        except Exception as error:
            raise InputError(
                f"example_inputs: expected what {type(model).__name__} takes, got {describe(example_inputs)}: {error}"
            ) from error
    return calls
