"""Numbers that penalties are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.training.state import State


def wide(weight: Tensor) -> Tensor:
    """Return ``weight`` in at least float32: a sum of many squares is lost in half precision. Gradients flow."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def longest_step(state: State) -> float:
    """Return the largest learning rate that the optimizer has for a pruned weight."""
    pruned = {id(site.weight) for site in state.sites}
    groups = state.optimizer.param_groups
    return max(float(g["lr"]) for g in groups if any(id(weight) in pruned for weight in g["params"]))
