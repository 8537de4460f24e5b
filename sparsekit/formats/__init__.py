"""How kept weights are stored."""

from sparsekit.formats.base import Format, Refusal
from sparsekit.formats.bitmask import Bitmask
from sparsekit.formats.block_csr import BlockCSR
from sparsekit.formats.csr import CSR
from sparsekit.formats.dense import Dense
from sparsekit.formats.nm import NMPacked

FORMATS: tuple[type[Format], ...] = (Dense, CSR, Bitmask, NMPacked, BlockCSR)

__all__ = ["CSR", "FORMATS", "Bitmask", "BlockCSR", "Dense", "Format", "NMPacked", "Refusal"]
