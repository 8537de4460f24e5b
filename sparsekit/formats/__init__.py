"""How kept weights are stored."""

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bitmask import Bitmask
from sparsekit.formats.block_csr import BlockCSR
from sparsekit.formats.csr import CSR
from sparsekit.formats.delta import DeltaCSR
from sparsekit.formats.dense import Dense
from sparsekit.formats.int8_bitmask import Int8Bitmask
from sparsekit.formats.int8_block_csr import Int8BlockCSR
from sparsekit.formats.int8_dense import Int8Dense
from sparsekit.formats.nm import NMPacked
from sparsekit.formats.positions import gather, positions, stored_weights
from sparsekit.formats.quantized import Quantized

FORMATS: tuple[type[Format], ...] = (Dense, CSR, Bitmask, NMPacked, BlockCSR, DeltaCSR)
QUANTIZED_FORMATS: tuple[type[Quantized], ...] = (Int8Dense, Int8Bitmask, Int8BlockCSR)
"""Formats that round: a plan takes them only where it is asked to."""

__all__ = [
    "CSR",
    "FORMATS",
    "QUANTIZED_FORMATS",
    "Bitmask",
    "BlockCSR",
    "DeltaCSR",
    "Dense",
    "Format",
    "Int8Bitmask",
    "Int8BlockCSR",
    "Int8Dense",
    "NMPacked",
    "Quantized",
    "Refusal",
    "format_named",
    "gather",
    "positions",
    "stored_weights",
]


def format_named(name: str) -> type[Format]:
    """Return the format called ``name``.

    Raises:
        FormatError: there is none.
    """
    every = (*FORMATS, *QUANTIZED_FORMATS)
    for family in every:
        if family.name == name:
            return family
    raise FormatError(f"format: expected one of {', '.join(f.name for f in every)}, got {name!r}")
