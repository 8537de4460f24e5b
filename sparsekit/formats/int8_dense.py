"""Every weight stored in 8 bits, zeros included: what 8-bit sparse formats have to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekit.formats.dense import Dense
from sparsekit.formats.quantized import Quantized


@dataclass(frozen=True, eq=False, repr=False)
class Int8Dense(Quantized, Dense):
    """The matrix of integers, ``values`` int8 ``(rows, columns)``; ``scales`` as in :class:`Quantized`."""

    name: ClassVar[str] = "int8_dense"
    exact = Dense
