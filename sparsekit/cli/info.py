"""What this machine and this build offer."""

from __future__ import annotations

from typing import Any

import torch
from rich.table import Table

from sparsekit.formats import FORMATS, QUANTIZED_FORMATS, Format, Refusal
from sparsekit.kernels import KERNELS, Kernel, Problem, cuda, native
from sparsekit.kernels.triton.tile import tuned_for
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning.machine import describe_machine, driver, gpus, triton_version

SIDE = 64
SAMPLES = ((Unstructured(), 0.8), (NM(2, 4), None), (Block(16, 16), 0.8))
QUESTIONS = ((torch.float32, 1), (torch.float32, 128), (torch.bfloat16, 128))
"""Dtype and batch size of the problems that every kernel is asked about."""


def gather() -> dict[str, Any]:
    """Return all of it as JSON types: machine, GPU, native build, measured peaks, formats, kernels and refusals."""
    return {
        "machine": describe_machine(),
        "gpu": describe_gpu(),
        "native": native.describe(),
        "peaks": native.measured_peaks(torch.get_num_threads()),
        "formats": [
            {"name": kind.name, "stores": (kind.__doc__ or "").split("\n")[0]}
            for kind in (*FORMATS, *QUANTIZED_FORMATS)
        ],
        "kernels": [{"name": k.name, "format": k.format.name, "answers": answers(k)} for k in KERNELS],
    }


def describe_gpu() -> dict[str, str]:
    """Return what GPU there is and what its kernels are compiled by, or why there is nothing."""
    found = {"triton": triton_version() or "not installed; pip install 'sparsekit[triton]' does so"}
    module, why_not = cuda.extension.MODULE, cuda.extension.WHY_NOT
    found["cuda kernels"] = f"built for {module.architectures}" if module else why_not
    if not gpus():
        built = "sees none" if torch.version.cuda else "is built without CUDA"
        return {"name": f"none: torch {torch.__version__} {built}", **found}
    gpu = gpus()[0]
    more = f" and {len(gpus()) - 1} more" if len(gpus()) > 1 else ""
    details = f"compute capability {gpu.capability_text}, {gpu.multiprocessors} multiprocessors"
    tuned = len(tuned_for(gpu).tiles)
    found["tuned"] = f"{tuned} cases" if tuned else "not for this GPU: tiles are chosen by rule"
    return {"name": f"{gpu.name}{more}, {details}", "driver": driver(), **found}


def answers(kernel: Kernel) -> dict[str, str]:
    """Ask ``kernel`` about each question; an answer is "yes", "yes, on the GPU", or the reason why not."""
    return {question(dtype, batch): _answer(kernel, dtype, batch) for dtype, batch in QUESTIONS}


def _answer(kernel: Kernel, dtype: torch.dtype, batch: int) -> str:
    refusal: Refusal | None = None
    for device, yes in (("cpu", "yes"), ("cuda", "yes, on the GPU")):
        if device == "cuda" and not gpus():
            break
        refusal = kernel.refuses(Problem(sample(kernel.format, dtype, device), batch, torch.get_num_threads()))
        if refusal is None:
            return yes
    return str(refusal)


def question(dtype: torch.dtype, batch: int) -> str:
    """How a problem is called in the table."""
    return f"{str(dtype).removeprefix('torch.')}, batch {batch}"


def sample(kind: type[Format], dtype: torch.dtype, device: str = "cpu") -> Format:
    """Pack a small weight under the first of the sample patterns that ``kind`` accepts."""
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0), device="cpu").to(device)
    for pattern, sparsity in SAMPLES:
        mask = Mask(pattern.select(weight.abs(), sparsity), pattern)
        if kind.accepts(mask) is None:
            return kind.pack(weight.to(dtype), mask)
    keep = torch.ones(SIDE, SIDE, dtype=torch.bool, device=device)
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
    if build["amx"]:
        table.add_row("AMX", f"not used: {build['amx']}")
    if build["reason"]:
        table.add_row("native kernels", build["reason"])
    for name, fact in found["gpu"].items():
        table.add_row("gpu" if name == "name" else f"gpu: {name}", fact)
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
