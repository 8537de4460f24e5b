"""How a product is cut into tiles and parts: functions of sizes alone.

The least time by a model of one multiprocessor is chosen. Its constants are estimates from data sheets, in cycles; no
GPU was at hand to measure them, and only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

TILE_ROWS = 128
"""Outputs of a tile, in every kernel."""

MOST_SPLITS = 32
"""Parts beyond which their sum would be what takes the time."""

FEWEST_BLOCKS = 4
"""Blocks of columns below which a part costs more to start than it saves."""

BYTES_PER_CYCLE = 20.0
"""What one multiprocessor reads of memory: 4.8 TB/s over 132 of them at 1.8 GHz."""

SHARED_BYTES_PER_CYCLE = 128.0
"""What its shared memory gives and takes; with wgmma.sp it gives out before arithmetic does."""

START = 2000.0
"""Cycles to fill the first stages and to store a tile."""


@dataclass(frozen=True)
class Tile:
    """A tile of ``tokens``, and into how many parts of the columns a product is split."""

    tokens: int
    splits: int


@dataclass(frozen=True)
class _Product:
    rows: int
    columns: int
    batch: int
    multiprocessors: int

    def cheapest(self, width: int, cycles: dict[int, float]) -> Tile:
        """Return the tile of least time, given for each size the cycles of a block of ``width`` columns."""
        blocks = _over(self.columns, width)
        splits = range(1, max(1, min(MOST_SPLITS, blocks // FEWEST_BLOCKS)) + 1)
        choices: Iterable[Tile] = (Tile(tokens, parts) for tokens in cycles for parts in splits)
        return min(choices, key=lambda tile: self._time(tile, blocks, cycles[tile.tokens]))

    def _time(self, tile: Tile, blocks: int, cycles: float) -> float:
        """Rounds of tiles over the multiprocessors, and where parts are summed writing and reading them."""
        tiles = _over(self.rows, TILE_ROWS) * _over(self.batch, tile.tokens)
        rounds = _over(tiles * tile.splits, self.multiprocessors)
        time = rounds * (_over(blocks, tile.splits) * cycles + START)
        if tile.splits == 1:
            return time
        moved = 8 * tile.splits * self.batch * self.rows / self.multiprocessors
        return time + START + moved / BYTES_PER_CYCLE


def smallest_tile(batch: int) -> int:
    """Return the tile of mma.sp that holds ``batch`` tokens, or the largest."""
    return 8 if batch <= 8 else 32 if batch <= 32 else 64


@lru_cache(maxsize=1024)
def few_tokens(rows: int, columns: int, batch: int, multiprocessors: int) -> Tile:
    """Choose for mma.sp, whose time is that of reading the weight: the smallest tile that holds the batch."""
    tokens = smallest_tile(batch)
    panels, x = TILE_ROWS * 128 * 9 / 8, tokens * 128 * 2
    cycles = {tokens: (panels + x) / BYTES_PER_CYCLE}
    return _Product(rows, columns, batch, multiprocessors).cheapest(128, cycles)


@lru_cache(maxsize=1024)
def many_tokens(rows: int, columns: int, batch: int, multiprocessors: int) -> Tile:
    """Choose for wgmma.sp, whose time is that of shared memory: a stage is written once and read by each instruction.

    Four instructions multiply a stage of 64 columns, and each reads 64 x 32 columns of weights and of all tokens.
    """
    panel, instruction = TILE_ROWS * 64 * 9 / 8, 64 * 32
    cycles = {
        tokens: (panel + tokens * 64 * 2 + 4 * (instruction + tokens * 32 * 2)) / SHARED_BYTES_PER_CYCLE
        for tokens in (256, 128)
    }
    return _Product(rows, columns, batch, multiprocessors).cheapest(64, cycles)


def _over(value: int, by: int) -> int:
    return -(-value // by)
