"""Which machine, build and version a measurement belongs to."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sparsekit.kernels import CONV_KERNELS, KERNELS, native


def describe_machine() -> dict[str, Any]:
    """Return the processor, the threads, the versions, and the commit where there is one."""
    return {
        "cpu": cpu_name(),
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
        "build": native.build_stamp(),
    }


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
