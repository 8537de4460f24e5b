"""How a program cuts a problem up, and the tables of what was the fastest."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from sparsekit.errors import SparsekitWarning
from sparsekit.kernels.base import Problem
from sparsekit.kernels.gpu import Gpu

FOLDER = Path(__file__).parent / "tuned"


@dataclass(frozen=True)
class Tile:
    """What one block of threads computes, and how.

    Args:
        tokens: rows of the input.
        outputs: rows of the weight.
        inner: columns of the weight that are read in one step.
        warps: of 32 threads.
        stages: steps whose loads are under way at once.
        splits: parts that the columns are cut into, each summed up on its own.
        persistent: whether a block of threads computes several tiles, as many blocks as the GPU runs at once.
    """

    tokens: int
    outputs: int
    inner: int
    warps: int = 4
    stages: int = 3
    splits: int = 1
    persistent: bool = False


@dataclass(frozen=True)
class Case:
    """What a tile was chosen for.

    Args:
        kernel: the kernel's name.
        dtype: of the weight, such as "bfloat16".
        pattern: the integers of the format beside the sizes, such as "64x64" for blocks; "" where there are none.
        rows: of the weight.
        columns: of the weight.
        batch: tokens.
        density: the fraction of the weights that is stored.
    """

    kernel: str
    dtype: str
    pattern: str
    rows: int
    columns: int
    batch: int
    density: float

    @classmethod
    def of(cls, kernel: str, problem: Problem) -> Case:
        """Return the case that ``problem`` is for the kernel of this name."""
        packed = problem.packed
        rows, columns, *sides = packed.integers().values()
        dtype = str(problem.dtype).removeprefix("torch.")
        density = packed.values.numel() / max(rows * columns, 1)
        return cls(kernel, dtype, "x".join(map(str, sides)), rows, columns, problem.batch, density)

    def distance(self, other: Case) -> float:
        """How far apart two cases are, in doublings of their sizes; infinite where one tells nothing of the other."""
        if (self.kernel, self.dtype, self.pattern) != (other.kernel, other.dtype, other.pattern):
            return math.inf
        sizes = ("rows", "columns", "batch", "density")
        return sum(abs(math.log2(max(getattr(self, s), 1e-3) / max(getattr(other, s), 1e-3))) for s in sizes)


NEAREST = 3.0
"""A tuned case farther than this, in doublings, says nothing."""


@dataclass(frozen=True)
class TunedTable:
    """The fastest tiles of one GPU, by case."""

    tiles: dict[Case, Tile]

    def nearest(self, case: Case) -> Tile | None:
        """Return the tile of the nearest case of the same kernel, dtype and pattern, or None where none is near."""
        found = min(self.tiles, key=case.distance, default=None)
        return self.tiles[found] if found is not None and case.distance(found) <= NEAREST else None

    def as_json(self) -> list[dict[str, Any]]:
        """Return every case and tile with named fields."""
        return [{**asdict(case), "tile": asdict(tile)} for case, tile in self.tiles.items()]

    @classmethod
    def from_json(cls, entries: list[dict[str, Any]]) -> TunedTable:
        """Return the table that :meth:`as_json` described.

        Raises:
            ValueError: a field is unknown or missing; a tile may lack what has a default.
        """
        cases, tiles = {field.name for field in fields(Case)}, {field.name for field in fields(Tile)}
        for entry in entries:
            if not isinstance(entry, dict) or entry.keys() != cases | {"tile"} or not entry["tile"].keys() <= tiles:
                raise ValueError(f"expected the fields {sorted(cases)} and a tile of {sorted(tiles)}, got {entry}")
        return cls({Case(**{name: entry[name] for name in cases}): Tile(**entry["tile"]) for entry in entries})

    def save(self, path: Path, **origin: Any) -> None:
        """Write the table to ``path``, and beside the tiles where it comes from: machine, versions, commit, date."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**origin, "tiles": self.as_json()}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> TunedTable:
        """Return the table that :meth:`save` wrote to ``path``; an empty one where there is none.

        A file that an older or newer version wrote is ignored with a warning: the tiles are then chosen by rule.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8"))["tiles"])
        except FileNotFoundError:
            return cls({})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"ignoring the tuned tiles in {path}: {error}", SparsekitWarning, stacklevel=2)
            return cls({})


@dataclass(frozen=True)
class Trial(TunedTable):
    """One tile for whatever asks, and the cases that asked."""

    tile: Tile
    asked: list[Case]

    def nearest(self, case: Case) -> Tile | None:
        """Return the tile."""
        self.asked.append(case)
        return self.tile


_TRIALS: list[Trial] = []


@contextmanager
def trying(tile: Tile) -> Iterator[list[Case]]:
    """Let every kernel that is called for the first time within take ``tile``; yields the cases that it took it for."""
    _TRIALS.append(Trial({}, tile, []))
    try:
        yield _TRIALS[-1].asked
    finally:
        _TRIALS.pop()


def tuned_for(gpu: Gpu) -> TunedTable:
    """Return what was tuned on ``gpu``; an empty table for one that was never at hand."""
    return _TRIALS[-1] if _TRIALS else _read(gpu)


@cache
def _read(gpu: Gpu) -> TunedTable:
    return TunedTable.read(FOLDER / file_name(gpu))


def tune(gpu: Gpu, table: TunedTable, **origin: Any) -> None:
    """Save ``table`` as what is tuned for ``gpu``; what is bound from now on takes its tiles."""
    table.save(FOLDER / file_name(gpu), **origin)
    _read.cache_clear()


def file_name(gpu: Gpu) -> str:
    """The name of the file for ``gpu``: ``nvidia-h200.json``."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-") + ".json"
