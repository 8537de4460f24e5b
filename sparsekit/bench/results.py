"""Measured rows: as a table, and as CSV and JSON that say where they come from."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sparsekit.bench.warm_and_cold import Memory
from sparsekit.kernels import native
from sparsekit.planning.machine import describe_machine

ISA_LIMIT = os.environ.get("SPARSEKIT_ISA", "")
"""The instruction set that a user allows at most, or nothing."""


@dataclass(frozen=True)
class Row:
    """One way to compute one problem, beside the fastest dense way in the same rounds.

    Times are seconds, medians of interleaved rounds. ``kept_flops`` counts two operations per kept weight and token
    and second, ``dense_flops`` those of the dense product; ``share_of_peak`` is ``kept_flops`` over what this machine
    reaches from registers; ``bandwidth`` is the packed weight's bytes per second; ``intensity`` is operations over the
    bytes of packed weight, input and output. ``peer`` is library and version where it is not one of ours, ``sizes`` are
    tokens, inputs and outputs, ``kept`` the number of kept weights. ``memory`` is "warm" where the same call was
    repeated, and "cold" where the weight came from memory in each. A sparsity of 0 is a dense way.
    """

    case: str
    sparsity: float
    threads: int
    kernel: str
    seconds: float
    dense_kernel: str
    dense_seconds: float
    kept_flops: float = 0.0
    dense_flops: float = 0.0
    share_of_peak: float = 0.0
    bandwidth: float = 0.0
    floor: float | None = None
    peer: str = ""
    weights: str = "float32"
    pattern: str = ""
    sizes: tuple[int, ...] = ()
    kept: int = 0
    intensity: float = 0.0
    memory: Memory = "warm"

    @property
    def speedup(self) -> float:
        """Dense time over this kernel's."""
        return self.dense_seconds / self.seconds


@dataclass(frozen=True)
class Notes:
    """What a run tells beside its rows.

    Args:
        peers: by name, library and version of each way of others that was asked for, or why it is absent.
        peaks: by number of threads, what the machine reaches: ``flops`` per second in fp32 and ``bandwidth`` in bytes.
    """

    peers: dict[str, str] = field(default_factory=dict)
    peaks: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All rows of one run on one machine."""

    rows: tuple[Row, ...]
    notes: Notes = field(default_factory=Notes)

    def as_json(self) -> dict[str, Any]:
        """Return machine, instruction sets and rows as JSON types, figures to six digits."""
        found = native.describe()
        machine = {**describe_machine(), "isa": found["in_use"], "isa_limit": ISA_LIMIT, "flags": found["cpu_features"]}
        rows = [_rounded({**asdict(row), "sizes": list(row.sizes), "speedup": row.speedup}) for row in self.rows]
        content = {"machine": machine, "rows": rows}
        if self.notes.peers:
            content["peers"] = self.notes.peers
        if self.notes.peaks:
            content["peaks"] = {str(threads): found for threads, found in self.notes.peaks.items()}
        return content

    def save(self, folder: Path) -> Path:
        """Write ``<machine>.json`` and ``<machine>.csv`` to ``folder``; return the path without suffix.

        Where ``SPARSEKIT_ISA`` allows a lower instruction set only, it is part of the name: as of another machine.
        """
        content = self.as_json()
        machine = content["machine"]
        name = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {ISA_LIMIT}".lower()).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        lines = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
        rest = json.dumps({**content, "rows": []}, indent=1)
        text = rest.replace('"rows": []', f'"rows": [\n{lines}\n ]')  # a line for each, of which there are thousands
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        origin = {key: machine[key] for key in ("cpu", "commit", "torch", "python")}
        origin["flags"] = " ".join(machine["flags"])
        with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*content["rows"][0], *origin], lineterminator="\n")
            writer.writeheader()
            for row in content["rows"]:
                writer.writerow({**row, "sizes": "x".join(map(str, row["sizes"])), **origin})
        return path

    def tables(self) -> list[Table]:
        """Return one table per case; a promise that is not kept stands in red.

        Of the kernels of a product, the fastest is shown; those that are not, and the dense ways, are in the files.
        Everything is warm but "cold", the speedup that the fastest kernel has then.
        """
        made: dict[str, list[dict[str, str]]] = {}
        for row, cold in self._shown():
            made.setdefault(row.case, []).append(_cells(row, cold))
        return [_table(case, lines) for case, lines in made.items()]

    def _shown(self) -> Iterator[tuple[Row, Row | None]]:
        """The rows of a table, and what stands beside them where something was timed cold."""
        best: dict[str, dict[tuple[str, int, float, str], Row]] = {"warm": {}, "cold": {}}
        for row in self.rows:
            product_of_ours = bool(row.sizes) and not row.peer
            if product_of_ours and row.sparsity == 0.0:
                continue
            cell = row.case, row.threads, row.sparsity, "" if product_of_ours else row.kernel
            found = best[row.memory]
            if cell not in found or row.seconds < found[cell].seconds:
                found[cell] = row
        yield from ((row, best["cold"].get(cell)) for cell, row in best["warm"].items())


def title() -> str:
    """Return processor, torch and commit in one line."""
    machine = describe_machine()
    return f"{machine['cpu']}, torch {machine['torch']}, commit {machine['commit'] or 'unknown'}"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _table(case: str, lines: list[dict[str, str]]) -> Table:
    """The lines below their headers, without columns in which there is nothing."""
    table = Table(title=case, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    headers = [header for header in lines[0] if any(line[header] for line in lines)]
    for header in headers:
        name = header == "kernel"
        table.add_column(header, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for line in lines:
        table.add_row(*(line[header] for header in headers))
    return table


def _cells(row: Row, cold: Row | None) -> dict[str, str]:
    return {
        "zeros": f"{row.sparsity:.0%}",
        "threads": str(row.threads),
        "kernel": f"[dim]{row.kernel}[/dim]" if row.peer else row.kernel,
        "dense ms": f"{row.dense_seconds * 1e3:.3g}",
        "ms": f"{row.seconds * 1e3:.3g}",
        "speedup": _judged(row),
        "cold": _judged(cold) if cold else "",
        "floor": f"{row.floor:g}x" if row.floor else "",
        "of peak": f"{row.share_of_peak:.0%}" if row.share_of_peak else "",
        "GB/s": f"{row.bandwidth / 1e9:.1f}" if row.bandwidth else "",
    }


def _judged(row: Row) -> str:
    kept = row.floor is None or row.speedup >= row.floor
    return f"{row.speedup:.2f}x" if kept else f"[red]{row.speedup:.2f}x[/red]"
