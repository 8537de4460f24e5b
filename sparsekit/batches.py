"""What a model is called with: a batch is a tensor, a tuple or list (positional), or a mapping (keywords)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import LayerError


def call_model(model: nn.Module, batch: Any) -> Any:
    """Call ``model`` with ``batch`` and return what it returns.

    Args:
        model: any module.
        batch: a mapping (a dict, or a tokenizer's ``BatchEncoding``) gives keyword arguments, a tuple or list gives
            positional arguments, and anything else is the one positional argument.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(batch)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))


def expect_module(model: object, name: str = "model") -> None:
    """Raise :class:`LayerError` unless ``model``, the argument called ``name``, is a module."""
    if not isinstance(model, nn.Module):
        raise LayerError(f"{name}: expected a torch.nn.Module, got {type(model).__name__}")


def describe(batch: Any) -> str:
    """What came, for an error message: ``dict(input_ids=int64 (8, 128))``."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "dict(" + ", ".join(f"{name}={describe(value)}" for name, value in batch.items()) + ")"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__}(" + ", ".join(describe(value) for value in batch) + ")"
    return type(batch).__name__


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode without gradients; then set every module's mode as it was."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
