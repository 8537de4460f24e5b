"""A copy of a model that does not learn, also of one that is sharded over ranks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from sparsekit.errors import PruningError
from sparsekit.training.sharding import whole


@torch.no_grad()
def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in eval mode whose parameters are whole and do not learn.

    Raises:
        PruningError: it cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(whole(parameter.detach()).clone(), requires_grad=False)
    try:
        for module in reversed(list(model.modules())):  # what is inside comes first
            if _is_sharding(module):
                memo[id(module)] = _unsharded(module, memo)
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise PruningError(f"teacher: expected a model that can be copied, or a teacher, got {error}") from error


def _unsharded(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy as the module was before ``fully_shard`` gave it another class, hooks and a state of its own."""
    kind: Any = next(base for base in type(module).__mro__[1:] if base.__name__ != "FSDPModule")
    made: nn.Module = kind.__new__(kind)
    nn.Module.__init__(made)
    own = {name: value for name, value in vars(module).items() if not _is_of_sharding(name)}
    made.__dict__.update(copy.deepcopy(own, memo))
    return made


def _is_sharding(module: nn.Module) -> bool:
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)


def _is_of_sharding(name: object) -> bool:
    """Whether an attribute is a hook, or what ``fully_shard`` keeps under a name that is no identifier."""
    text = str(name)
    return "_hooks" in text or not text.isidentifier()
