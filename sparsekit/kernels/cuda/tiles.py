"""How a product is cut into tiles and parts: functions of sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

TILE_ROWS = 128
"""Outputs of a tile, in every kernel."""

FEWEST_BLOCKS = 4
"""Blocks of columns below which a part costs more to start than it saves."""

EDGE = 24
"""Tokens' worth of time that a tile of many tokens costs whatever its size: its first loads and its store."""


@dataclass(frozen=True)
class Tile:
    """A tile of ``tokens``, and into how many parts of the columns a product is split."""

    tokens: int
    splits: int


def few_tokens(rows: int, columns: int, batch: int, multiprocessors: int) -> Tile:
    """Choose for mma.sp: the smallest tile that holds the batch, and parts until every multiprocessor has a block."""
    tokens = 8 if batch <= 8 else 32 if batch <= 32 else 64
    tiles = _over(rows, TILE_ROWS) * _over(batch, tokens)
    return Tile(tokens, _splits(tiles, _over(columns, 128), multiprocessors))


def many_tokens(rows: int, columns: int, batch: int, multiprocessors: int) -> Tile:
    """Choose for wgmma.sp: the tile whose rounds over the multiprocessors take the least time, the larger in doubt."""
    row_tiles, blocks = _over(rows, TILE_ROWS), _over(columns, 64)
    choices = []
    for tokens in (256, 128):
        tiles = row_tiles * _over(batch, tokens)
        splits = _splits(tiles, blocks, multiprocessors)
        rounds = _over(tiles * splits, multiprocessors)
        choices.append((rounds * (tokens / splits + EDGE), Tile(tokens, splits)))
    return min(choices, key=lambda choice: choice[0])[1]


def _splits(tiles: int, blocks: int, multiprocessors: int) -> int:
    return max(1, min(multiprocessors // tiles, blocks // FEWEST_BLOCKS))


def _over(value: int, by: int) -> int:
    return -(-value // by)
