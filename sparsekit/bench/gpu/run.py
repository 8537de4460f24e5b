"""A whole run on a GPU: processes that measure, what they found on disk, and the tables at the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sparsekit.bench.gpu.cases import DRY_GPU_CASES, GPU_CASES, QUICK_GPU_CASES
from sparsekit.bench.gpu.log import Log
from sparsekit.bench.gpu.rows import GpuRow, fastest_kernels, save_rows, table_of
from sparsekit.bench.gpu.session import Session
from sparsekit.bench.gpu.tables import origin, tuned_table
from sparsekit.bench.gpu.watch import Watch
from sparsekit.bench.gpu.worker import Unit, units_of, work
from sparsekit.kernels.gpu import gpu_of
from sparsekit.kernels.triton.tile import file_name
from sparsekit.planning.machine import describe_machine, driver, triton_version

TUNING = 0.65
"""The part of the time after which nothing is tuned any more."""

WIDTH = 170


@dataclass
class Run:
    """One run.

    Args:
        folder: for everything that is written.
        kind: "full", "quick", or "dry", which is small and runs on the CPU too.
        minutes: that it takes, about, at most.
        device: where it measures.
        began: ``time.time()`` at its start.
        tell: is told in a few words what happens.
    """

    folder: Path
    kind: str
    minutes: float
    device: torch.device
    began: float
    tell: Callable[[str], None]

    @property
    def until(self) -> float:
        """``time.time()`` at its end."""
        return self.began + 60.0 * self.minutes

    @cached_property
    def log(self) -> Log:
        """What was found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Log(self.folder / "log.jsonl")

    @cached_property
    def units(self) -> list[Unit]:
        """What is done, the same in every process."""
        if self.kind == "dry":
            return units_of(DRY_GPU_CASES, side=64, bytes=1 << 16)
        return units_of(QUICK_GPU_CASES if self.kind == "quick" else GPU_CASES)

    def measure(self, first: int) -> None:
        """Do the units from ``first`` on, in this process."""
        tunes_until = self.began + TUNING * 60.0 * self.minutes
        seconds = 0.01 if self.kind == "dry" else 0.4
        work(self.units, first, self.until, Session(self.device, self.log, tunes_until, seconds, self.tell))

    def watch(self, start: Callable[[int], subprocess.Popen[bytes]]) -> int:
        """Let processes measure, save what they find, and print the tables; return the exit status.

        Args:
            start: starts a process that calls :meth:`measure` with the number of a unit.

        Returns:
            1 where a kernel was wrong, or nothing was measured; else 0.
        """
        self.log.path.unlink(missing_ok=True)
        for name, fact in self.machine().items():
            self.tell(f"{name}: {fact}")
        Watch(self.units, self.log, start, self.until, self.save, self.tell).run()
        self.save()
        self.show()
        return 1 if self.log.records("failed", "wrong") or not self.rows() else 0

    def machine(self) -> dict[str, Any]:
        """Return what was measured on."""
        gpu = gpu_of(self.device)
        return {
            **describe_machine(),
            "gpu": gpu.name if self.device.type == "cuda" else f"none, {self.device}",
            "capability": ".".join(map(str, gpu.capability)),
            "multiprocessors": gpu.multiprocessors,
            "cache_bytes": gpu.cache_bytes,
            "driver": driver(),
            "triton": triton_version(),
            "cuda": torch.version.cuda,
        }

    def rows(self) -> list[GpuRow]:
        """Return what was timed so far."""
        return [GpuRow.from_json(record["row"]) for record in self.log.records("row")]

    def ceilings(self) -> dict[str, float]:
        """Return what the machine reaches, by name."""
        return {record["name"]: record["value"] for record in self.log.records("ceiling")}

    def save(self) -> None:
        """Write what there is so far."""
        gpu, kinds = gpu_of(self.device), ("failed", "wrong", "absent", "skipped", "checked", "done")
        found = {kind: [{k: v for k, v in r.items() if k != "kind"} for r in self.log.records(kind)] for kind in kinds}
        path = self.folder / file_name(gpu)
        save_rows(self.rows(), path, {"machine": self.machine(), "ceilings": self.ceilings(), **found})
        if self.log.records("tuned"):
            tuned_table(self.log, gpu).save(self.folder / "tuned" / file_name(gpu), **origin(gpu))

    def show(self) -> None:
        """Print what went wrong, what is absent, and last the table."""
        console = Console(width=WIDTH, highlight=False, markup=False)
        for kind in ("skipped", "absent", "wrong", "failed"):
            for record in self.log.records(kind):
                what = ", ".join(str(record[key]) for key in ("way", "case", "name") if key in record)
                console.print(f"{kind.upper()}: {what}: {record['reason']}")
        rows = self.rows()
        missed = [(row, misses) for row in fastest_kernels(rows) if (misses := row.misses())]
        for row, misses in missed:
            console.print(f"MISSED: {row.case}, {row.sparsity:.0%} zeros, {row.way}: {'; '.join(misses)}")
        for row in rows:
            if not row.captured and self.device.type == "cuda":
                console.print(f"NOT CAPTURED: {row.case}, {row.sparsity:.0%} zeros, {row.way}: Python's time counts")
        ceilings = {name: f"{value / 1e12:.3g} T/s" for name, value in self.ceilings().items()}
        took = time.time() - self.began
        console.print(f"{len(rows)} rows in {took:.0f} s, {len(missed)} promises missed, reached: {ceilings}")
        Console(width=WIDTH, highlight=False).print(table_of(rows, self.ceilings()))
