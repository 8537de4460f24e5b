"""What a model is called with: a batch is a tensor, a tuple or list (positional), or a mapping (keywords)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


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


def describe(batch: Any) -> str:
    """What came, for an error message: ``dict(input_ids=int64 (8, 128))``."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "dict(" + ", ".join(f"{name}={describe(value)}" for name, value in batch.items()) + ")"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__}(" + ", ".join(describe(value) for value in batch) + ")"
    return type(batch).__name__
