"""The blocks that hold a kept weight, in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekit.formats.block_csr import BlockCSR
from sparsekit.formats.quantized import Quantized


@dataclass(frozen=True, eq=False, repr=False)
class Int8BlockCSR(Quantized, BlockCSR):
    """``values`` int8 ``(blocks, block_columns, block_rows)`` and their places as in :class:`BlockCSR`; ``scales`` as
    in :class:`Quantized`.
    """

    name: ClassVar[str] = "int8_block_csr"
    exact = BlockCSR
