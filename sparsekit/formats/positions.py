"""Where in the dense matrix each stored value stands, for any format."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format


def positions(packed: Format) -> dict[str, Tensor]:
    """Find the place of each stored value by unpacking their numbers.

    Returns:
        For each floating tensor of the format an int64 tensor of its shape: ``row * columns + column`` of the weight
        that an element stores, -1 where it is padding.

    Raises:
        FormatError: the values are rounded to integers, so that no floating tensor holds the weights themselves.
    """
    if not packed.values.is_floating_point():
        raise FormatError(f"{packed.name}: expected weights that are stored as they are, got {packed.values.dtype}")
    numbers, count = {}, 0
    for name, tensor in packed.tensors().items():
        if tensor.is_floating_point():
            first, count = count + 1, count + tensor.numel()
            of_part = torch.arange(first, count + 1, dtype=torch.float64, device=tensor.device)
            numbers[name] = of_part.reshape(tensor.shape)
    dense = packed.from_parts({**packed.tensors(), **numbers}, packed.integers()).unpack().flatten().long()
    stored = dense.nonzero().squeeze(1)
    place = dense.new_full((count + 1,), -1)
    place[dense[stored]] = stored
    return {name: place[number.long()] for name, number in numbers.items()}


def gather(dense: Tensor, places: Tensor) -> Tensor:
    """Return the elements of ``dense`` at ``places``, see :func:`positions`, and 0 for padding."""
    if not dense.numel():
        return dense.new_zeros(places.shape)
    return dense.flatten()[places.clamp(min=0)].masked_fill_(places < 0, 0.0)


def stored_weights(packed: Format) -> int:
    """How many elements of the matrix have a place of their own in ``packed``, whatever their values."""
    return sum(int((places >= 0).sum()) for places in positions(packed).values())
