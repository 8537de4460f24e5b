"""Values per unit of a pattern, spread over weights so that gradients flow."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.patterns import Pattern


def owners(pattern: Pattern, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return which unit each weight belongs to: int64 of ``shape``, row-major in the units, -1 where none covers it.

    Where a pattern fixes its own sparsity, every weight is a unit of its own.
    """
    if pattern.fixes_sparsity:
        return torch.arange(torch.Size(shape).numel(), device=device).reshape(shape)
    members = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        pooled = pattern.pool(members)
        numbers = torch.arange(1, pooled.numel() + 1, dtype=torch.float64).reshape(pooled.shape)
        (found,) = torch.autograd.grad(pooled, members, numbers)
    return found.round().long().sub(1).to(device)


def unit_count(owner: Tensor) -> int:
    """How many units :func:`owners` found."""
    return int(owner.max()) + 1 if owner.numel() else 0


def spread(units: Tensor, owner: Tensor, left_over: float = 1.0) -> Tensor:
    """Return the value of each weight's unit, differentiable; ``left_over`` where no unit covers the weight.

    Args:
        units: ``(units,)``.
        owner: what :func:`owners` returned.
        left_over: value of weights that stay dense.
    """
    values = torch.cat([units, units.new_full((1,), left_over)])
    return values[owner]  # -1 is the last: what is left over


def gather(values: Tensor, owner: Tensor) -> Tensor:
    """Return the sum of ``values`` over each unit, ``(units,)``, differentiable."""
    covered = owner >= 0
    sums = values.new_zeros(unit_count(owner))
    return sums.index_add(0, owner[covered], values[covered])
