"""Which machine, build and version a measurement belongs to."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sparsekit.kernels import CONV_KERNELS, KERNELS, cuda, native, triton
from sparsekit.kernels.gpu import Gpu, gpu_of


def describe_machine() -> dict[str, Any]:
    """Return the processor, the GPU, the threads, the versions, and the commit where there is one."""
    return {
        "cpu": cpu_name(),
        "gpu": gpus()[0].name if gpus() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def fingerprint() -> dict[str, str]:
    """Return what a cached measurement depends on beside the layer: a change of any makes it worthless."""
    used = native.describe()["in_use"]
    return {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "isa": " ".join(f"{stem}:{isa}" for stem, isa in sorted(used.items())),
        "kernels": " ".join([*(kernel.name for kernel in KERNELS), *(kernel.name for kernel in CONV_KERNELS)]),
        "build": build_stamp(native.extension.MODULE),
        "gpus": "; ".join(f"{g.name} {g.capability_text}" for g in gpus()),
        "cuda": build_stamp(cuda.extension.MODULE) if gpus() else "",
        "driver": driver() if gpus() else "",
        "triton": f"{triton_version()} {programs_stamp()}" if gpus() else "",
    }


def build_stamp(module: ModuleType | None) -> str:
    """What tells one build of an extension from another: its size and the time it was written."""
    file = getattr(module, "__file__", None)
    if file is None:
        return "none"
    found = os.stat(file)
    return f"{found.st_size}-{found.st_mtime_ns}"


@cache
def gpus() -> tuple[Gpu, ...]:
    """The CUDA devices that torch can use."""
    found = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return tuple(gpu_of(torch.device("cuda", index)) for index in found)


@cache
def driver() -> str:
    """The version of NVIDIA's driver, or "unknown"."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else "unknown"


def triton_version() -> str:
    """The version of Triton, or "" where it is not installed."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""


@cache
def programs_stamp() -> str:
    """Changes when a program for GPUs changes, or a tile that was the fastest."""
    folder = Path(triton.__file__).parent
    digest = hashlib.sha256()
    for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.json"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cpu_name() -> str:
    """The processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def commit() -> str | None:
    """The commit that this package was run from, or None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
