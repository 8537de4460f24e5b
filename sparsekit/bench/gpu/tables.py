"""From what was tuned to the tables that kernels read."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import torch

from sparsekit.bench.gpu.log import Log
from sparsekit.bench.gpu.session import Session
from sparsekit.kernels.gpu import Gpu, gpu_of
from sparsekit.kernels.triton.tile import FOLDER, Case, Tile, TunedTable, file_name, tune
from sparsekit.planning.machine import commit, triton_version


def tuned_table(log: Log, gpu: Gpu) -> TunedTable:
    """Return what was tuned for ``gpu`` before, and in this run, which goes before."""
    tiles = dict(TunedTable.read(FOLDER / file_name(gpu)).tiles)
    for record in log.records("tuned"):
        tiles[Case(**record["case"])] = Tile(**record["tile"])
    return TunedTable(tiles)


def apply_tuned(session: Session) -> None:
    """Let what is bound from now on take the tiles that were tuned; an interpreter's times are worth nothing."""
    if session.device.type == "cuda":
        gpu = gpu_of(session.device)
        tune(gpu, tuned_table(session.log, gpu), **origin(gpu))


def origin(gpu: Gpu) -> dict[str, Any]:
    """Where a table comes from: the GPU, the versions, the commit and the day."""
    day = datetime.now(timezone.utc).date().isoformat()
    return {
        "machine": gpu.name,
        "torch": torch.__version__,
        "triton": triton_version(),
        "commit": commit(),
        "date": day,
    }
