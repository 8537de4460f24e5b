"""How kept weights are stored."""

from sparsekit.errors import FormatError
from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bitmask import Bitmask
from sparsekit.formats.block_csr import BlockCSR
from sparsekit.formats.csr import CSR
from sparsekit.formats.delta import DeltaCSR
from sparsekit.formats.dense import Dense
from sparsekit.formats.nm import NMPacked
from sparsekit.formats.positions import gather, positions, stored_weights

FORMATS: tuple[type[Format], ...] = (Dense, CSR, Bitmask, NMPacked, BlockCSR, DeltaCSR)

__all__ = [
    "CSR",
    "FORMATS",
    "Bitmask",
    "BlockCSR",
    "DeltaCSR",
    "Dense",
    "Format",
    "NMPacked",
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
    for family in FORMATS:
        if family.name == name:
            return family
    raise FormatError(f"format: expected one of {', '.join(f.name for f in FORMATS)}, got {name!r}")
