"""Weights that may be sharded over ranks: read whole, written piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsekit.errors import LayerError


def whole(tensor: Tensor) -> Tensor:
    """Return ``tensor`` as one ordinary tensor: itself, or what all ranks hold of it. Gradients flow through it."""
    if not _is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def piece(tensor: Tensor) -> Tensor:
    """Return the part of ``tensor`` that this rank holds, without a gradient; writing into it changes ``tensor``."""
    with torch.no_grad():
        held: Tensor = tensor.to_local() if _is_sharded(tensor) else tensor.detach()  # type: ignore[attr-defined]
        return held


def cut(full: Tensor, like: Tensor) -> Tensor:
    """Return the part of ``full``, equal on every rank, that this rank holds of ``like``."""
    if not _is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - slow, and rarely needed

    sharded: Any = like
    return piece(distribute_tensor(full, sharded.device_mesh, sharded.placements, src_data_rank=None))


def joined(part: Tensor, like: Tensor) -> Tensor:
    """Wrap what this rank holds as a tensor that is sharded as ``like`` is."""
    if not _is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor  # noqa: PLC0415 - slow, and rarely needed

    sharded: Any = like
    made: Tensor = DTensor.from_local(
        part, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every value of ``tensors`` is finite, on all ranks that hold parts of them."""
    if not tensors:
        return True
    found = [torch.isfinite(piece(tensor)).all().to(tensors[0].device) for tensor in tensors]
    good = torch.stack(found).all().to(torch.int32)
    sharded: list[Any] = [tensor for tensor in tensors if _is_sharded(tensor)]
    for mesh in dict.fromkeys(tensor.device_mesh for tensor in sharded):
        for axis in range(mesh.ndim):
            torch.distributed.all_reduce(good, torch.distributed.ReduceOp.MIN, group=mesh.get_group(axis))
    return bool(good)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside ``torch.compile`` and ``DistributedDataParallel``: the one that names parameters."""
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def expect_shardable(name: str, weight: Tensor) -> None:
    """Raise :class:`LayerError` for weights that are flattened together with others."""
    if type(weight).__name__ == "FlatParameter":
        raise LayerError(f"{name}: expected a weight with its own shape, got a flat one; use fully_shard (FSDP2)")


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "device_mesh")
