"""What this machine and this build offer."""

from __future__ import annotations

from typing import Any

import torch
from rich.table import Table

from sparsekit.formats import FORMATS, Format
from sparsekit.kernels import KERNELS, Kernel, Problem, native
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning.machine import describe_machine

SIDE = 64
SAMPLES = ((Unstructured(), 0.8), (NM(2, 4), None), (Block(16, 16), 0.8))
QUESTIONS = ((torch.float32, 1), (torch.float32, 128), (torch.bfloat16, 128))
"""Dtype and batch size of the problems that every kernel is asked about."""


def gather() -> dict[str, Any]:
    """Return all of it as JSON types: machine, native build, measured peaks, formats, kernels and refusals."""
    return {
        "machine": describe_machine(),
        "native": native.describe(),
        "peaks": native.measured_peaks(torch.get_num_threads()),
        "formats": [{"name": kind.name, "stores": (kind.__doc__ or "").split("\n")[0]} for kind in FORMATS],
        "kernels": [{"name": k.name, "format": k.format.name, "answers": answers(k)} for k in KERNELS],
    }


def answers(kernel: Kernel) -> dict[str, str]:
    """Ask ``kernel`` about each question; an answer is "yes" or the reason why not."""
    found = {}
    for dtype, batch in QUESTIONS:
        packed = sample(kernel.format, dtype)
        refusal = kernel.refuses(Problem(packed, batch, torch.get_num_threads()))
        found[question(dtype, batch)] = "yes" if refusal is None else str(refusal)
    return found


def question(dtype: torch.dtype, batch: int) -> str:
    """How a problem is called in the table."""
    return f"{str(dtype).removeprefix('torch.')}, batch {batch}"


def sample(kind: type[Format], dtype: torch.dtype) -> Format:
    """Pack a small weight under the first of the sample patterns that ``kind`` accepts."""
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for pattern, sparsity in SAMPLES:
        mask = Mask(pattern.select(weight.abs(), sparsity), pattern)
        if kind.accepts(mask) is None:
            return kind.pack(weight.to(dtype), mask)
    keep = torch.ones(SIDE, SIDE, dtype=torch.bool)
    return kind.pack(weight.to(dtype), Mask(keep))


def tables(found: dict[str, Any]) -> list[Table]:
    """Return what :func:`gather` found as tables to print."""
    return [_machine(found), _formats(found), _kernels(found)]


def _machine(found: dict[str, Any]) -> Table:
    machine, build, peaks = found["machine"], found["native"], found["peaks"]
    table = Table(title="machine", show_header=False)
    table.add_row("processor", machine["cpu"])
    table.add_row("threads", str(machine["threads"]))
    table.add_row("torch, python", f"{machine['torch']}, {machine['python']}")
    table.add_row("features", " ".join(build["cpu_features"]) or "unknown")
    for stem, isa in build["in_use"].items():
        table.add_row(f"{stem} runs as", f"{isa}  (built: {', '.join(build['built'][stem])})")
    if build["reason"]:
        table.add_row("native kernels", build["reason"])
    if peaks:
        table.add_row("measured peak", f"{peaks['flops'] / 1e9:.0f} GFLOP/s fp32")
        table.add_row("measured bandwidth", f"{peaks['bandwidth'] / 1e9:.1f} GB/s read")
    return table


def _formats(found: dict[str, Any]) -> Table:
    table = Table("format", "stores", title="formats")
    for kind in found["formats"]:
        table.add_row(kind["name"], kind["stores"].replace("``", ""))
    return table


def _kernels(found: dict[str, Any]) -> Table:
    names = [question(dtype, batch) for dtype, batch in QUESTIONS]
    table = Table(title="kernels, in order of preference")
    table.add_column("kernel", no_wrap=True)
    for header in names:
        table.add_column(header, overflow="fold")
    for kernel in found["kernels"]:
        table.add_row(kernel["name"], *(kernel["answers"][name] for name in names))
    return table
