"""A block CSR weight as programs multiply by it: bands of outputs, each with its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.formats import BlockCSR
from sparsekit.formats.offsets import offsets_from_counts, row_of_each


@dataclass(frozen=True, eq=False)
class Bands:
    """The blocks of a weight ``(outputs, inputs)``, band by band.

    Args:
        outputs: of the whole weight.
        inputs: of the whole weight.
        high: outputs of a band.
        wide: inputs of a block.
        values: as the format stores them.
        indices: of each block, which ``wide`` inputs it multiplies, int32.
        positions: of each block, where it is stored; int32, or None where it is in this order. Blocks with a position
            are read transposed.
        offsets: where the blocks of each band begin, and the last ones end.
        order: the bands, those with the most blocks first, so that none of these is left for the end.
    """

    outputs: int
    inputs: int
    high: int
    wide: int
    values: Tensor
    indices: Tensor
    positions: Tensor | None
    offsets: Tensor
    order: Tensor


def bands_of(packed: BlockCSR) -> Bands:
    """Return the block rows of ``packed``."""
    offsets = packed.block_offsets.contiguous()
    sizes = (packed.rows, packed.columns, packed.block_rows, packed.block_columns)
    values, indices = packed.values.contiguous(), packed.block_indices.contiguous()
    return Bands(*sizes, values, indices, None, offsets, _longest_first(offsets))


def transposed_bands_of(packed: BlockCSR, places: dict[str, Tensor]) -> Bands:
    """Return the block columns of ``packed``; what they take from the places of the blocks is kept in ``places``."""
    names = tuple(f"transposed {name}" for name in ("indices", "positions", "offsets", "order"))
    if names[0] not in places:
        columns = packed.block_indices.long()
        positions = columns.argsort(stable=True)
        counts = torch.bincount(columns, minlength=-(-packed.columns // packed.block_columns))
        offsets = offsets_from_counts(counts)
        rows = row_of_each(packed.block_offsets)[positions]
        found = (rows.to(torch.int32), positions.to(torch.int32), offsets, _longest_first(offsets))
        places.update(zip(names, found))
    sizes = (packed.columns, packed.rows, packed.block_columns, packed.block_rows)
    return Bands(*sizes, packed.values.contiguous(), *(places[name] for name in names))


def _longest_first(offsets: Tensor) -> Tensor:
    return offsets.diff().argsort(descending=True, stable=True).to(torch.int32)
