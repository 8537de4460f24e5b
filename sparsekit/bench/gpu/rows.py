"""Measured rows of a run on a GPU, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sparsekit.bench.gpu.cases import Floor

KERNEL, PEER, DENSE = "kernel", "peer", "dense"


@dataclass(frozen=True)
class GpuRow:
    """One way to compute one case, beside the fastest dense way in the same rounds.

    Args:
        case: what is computed.
        sparsity: fraction of zeros; 0 for dense ways.
        way: a kernel's name, or what a peer or a dense way is called.
        kind: "kernel", "peer" or "dense".
        seconds: of one call, the median.
        dense_way, dense_seconds: the fastest dense one.
        floor: the speedup over dense that is promised for the fastest kernel.
        peer_floors: the same over peers, by name.
        operations: two per kept weight and token.
        bytes: of weight, input and output, each once.
        layers: how many layers, with a weight each, were called in a row.
        captured: whether it was timed as a CUDA graph; else what Python takes to start it may count.
        seconds_by_peer: of the peers of the same case and sparsity.
    """

    case: str
    sparsity: float
    way: str
    kind: str
    seconds: float
    dense_way: str
    dense_seconds: float
    floor: float | None = None
    peer_floors: Mapping[str, float] = field(default_factory=dict)
    operations: float = 0.0
    bytes: float = 0.0
    layers: int = 1
    captured: bool = True
    seconds_by_peer: Mapping[str, float] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """Dense time over this one's."""
        return self.dense_seconds / self.seconds

    @property
    def over_peers(self) -> dict[str, float]:
        """Each peer's time over this one's."""
        return {peer: seconds / self.seconds for peer, seconds in self.seconds_by_peer.items()}

    def misses(self) -> list[str]:
        """Say which floors a kernel misses."""
        found = (
            [f"{self.speedup:.2f}x dense, {self.floor:g}x is promised"] if self._below(self.speedup, self.floor) else []
        )
        for peer, floor in self.peer_floors.items():
            got = self.over_peers.get(peer)
            if self._below(got, floor):
                found.append(f"{got:.2f}x {peer}, {floor:g}x is promised")
        return found

    def _below(self, got: float | None, floor: float | None) -> bool:
        return self.kind == KERNEL and got is not None and floor is not None and got < floor

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and what follows from them, as JSON types."""
        return {**asdict(self), "speedup": self.speedup, "over_peers": self.over_peers}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GpuRow:
        """Return the row that :meth:`as_json` described."""
        return cls(**{one.name: record[one.name] for one in fields(cls)})


def rows_of(
    case: str,
    floors: Mapping[float, Floor],
    times: Mapping[tuple[float, str], float],
    about: Mapping[tuple[float, str], Mapping[str, Any]],
) -> list[GpuRow]:
    """Return one row per way of a case.

    Args:
        case: what is computed.
        floors: by sparsity.
        times: seconds by sparsity and way; a sparsity of 0 is dense.
        about: the other fields of a row, for each.
    """
    dense = min((key for key in times if about[key]["kind"] == DENSE), key=lambda key: times[key])
    found = []
    for key in sorted(times, key=lambda key: (key[0], times[key])):
        floor = floors.get(key[0], Floor()) if about[key]["kind"] == KERNEL else Floor()
        peers = {way: t for (zeros, way), t in times.items() if zeros == key[0] and about[zeros, way]["kind"] == PEER}
        ends: dict[str, Any] = {"floor": floor.dense, "peer_floors": dict(floor.peers), "seconds_by_peer": peers}
        beside: dict[str, Any] = {"dense_way": dense[1], "dense_seconds": times[dense]}
        found.append(GpuRow(case, key[0], key[1], seconds=times[key], **beside, **ends, **about[key]))
    return found


def fastest_kernels(rows: Sequence[GpuRow]) -> list[GpuRow]:
    """Return the fastest kernel of each case and sparsity, which is the one that keeps promises."""
    best: dict[tuple[str, float], GpuRow] = {}
    for row in rows:
        if row.kind == KERNEL:
            other = best.get((row.case, row.sparsity))
            if other is None or row.seconds < other.seconds:
                best[row.case, row.sparsity] = row
    return list(best.values())


def table_of(rows: Sequence[GpuRow], ceilings: Mapping[str, float]) -> Table:
    """Return the fastest kernel of each case; a promise that is not kept stands in red.

    Args:
        rows: of one run.
        ceilings: "flops" and "bandwidth" that this GPU reaches, per second.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    left = {"case", "kernel", "over peers"}
    for header in ("case", "zeros", "kernel", "dense us", "us", "speedup", "floor", "of peak", "of band", "over peers"):
        table.add_column(header, justify="left" if header in left else "right", overflow="fold")
    for row in fastest_kernels(rows):
        peers = (f"{got:.2f}x {peer}" + _asked(row, peer) for peer, got in row.over_peers.items())
        speedup = f"{row.speedup:.2f}x"
        table.add_row(
            row.case,
            f"{row.sparsity:.0%}",
            row.way,
            f"{row.dense_seconds * 1e6:.1f}",
            f"{row.seconds * 1e6:.1f}",
            f"[red]{speedup}[/red]" if row._below(row.speedup, row.floor) else speedup,
            f"{row.floor:g}x" if row.floor else "",
            _share(row.operations / row.seconds, ceilings.get("flops")),
            _share(row.bytes / row.seconds, ceilings.get("bandwidth")),
            ", ".join(peers),
        )
    return table


def _asked(row: GpuRow, peer: str) -> str:
    return f" (of {row.peer_floors[peer]:g}x)" if peer in row.peer_floors else ""


def _share(got: float, ceiling: float | None) -> str:
    return f"{got / ceiling:.0%}" if ceiling else ""


def save_rows(rows: Sequence[GpuRow], path: Path, content: Mapping[str, Any]) -> None:
    """Write ``path`` with the suffixes .json, with ``content`` beside the rows, and .csv, with the machine's name."""
    described = [row.as_json() for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**content, "rows": described}, indent=1) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    machine = content["machine"]
    origin = {key: machine[key] for key in ("gpu", "commit", "torch", "triton", "python")}
    plain = [
        key for key in (*(f.name for f in fields(GpuRow)), "speedup") if key not in ("peer_floors", "seconds_by_peer")
    ]
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*plain, "over_peers", *origin], lineterminator="\n")
        writer.writeheader()
        for row in described:
            peers = "; ".join(f"{got:.3f}x {peer}" for peer, got in row["over_peers"].items())
            writer.writerow({**{key: row[key] for key in plain}, "over_peers": peers, **origin})
