"""All that a model holds, read and set back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sparsekit.training.sharding import cut, piece, whole


def held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer of ``model`` by name, once; also buffers that are not saved."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def read_model(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer, whole."""
    return {name: whole(value.detach()).clone() for name, value in held(model)}


@torch.no_grad()
def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set every parameter and buffer to what :func:`read_model` has read, in place."""
    for name, value in held(model):
        piece(value).copy_(cut(tensors[name].to(value.device), value))
