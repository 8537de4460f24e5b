"""What Triton's compiler makes of launches, for GPUs that need not be there."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from sparsekit.kernels.triton.launch import Launch

AHEAD = Path(__file__).with_name("ahead.py")
ROOT = Path(__file__).parents[3]
SHARED_BYTES = {80: 166_912, 90: 232_448}
"""Shared memory of one block of threads, at most, by compute capability."""


def compile_ahead(cases: list[tuple[str, int, list[Launch]]]) -> list[dict[str, Any]]:
    """Compile the launches of each ``(name, capability, launches)`` in one process of its own.

    Returns:
        For each case its name, capability, and per program ``reg`` (registers of a thread), ``stack`` and ``local``
        (bytes of a thread in memory: spills), ``shared`` (bytes) and ``instructions`` (how often each stands there).
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, str(AHEAD)], input=pickle.dumps(cases), env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def assert_fits(found: dict[str, Any]) -> None:
    """Assert that no program of a case spills registers or asks for more shared memory than there is."""
    for program in found["programs"]:
        assert program["local"] == 0, found["name"]
        assert program["stack"] == 0, found["name"]
        assert program["shared"] <= SHARED_BYTES[found["capability"]], found["name"]


def count(found: dict[str, Any], start: str) -> int:
    """How many instructions of the case begin with ``start``."""
    return sum(n for p in found["programs"] for name, n in p["instructions"].items() if name.startswith(start))
