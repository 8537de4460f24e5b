"""The kept weights in 8 bits; one bit per weight says whether it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekit.formats.bitmask import Bitmask
from sparsekit.formats.quantized import Quantized


@dataclass(frozen=True, eq=False, repr=False)
class Int8Bitmask(Quantized, Bitmask):
    """``values`` int8 ``(nnz,)``, ``bits`` and ``row_offsets`` as in :class:`Bitmask`; ``scales`` as in
    :class:`Quantized`.
    """

    name: ClassVar[str] = "int8_bitmask"
    exact = Bitmask
