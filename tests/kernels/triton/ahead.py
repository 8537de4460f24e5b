"""Compiles launches for GPUs that are not there: run as a program, in a process that does not interpret.

Reads a list of ``(name, capability, [launches])`` pickled from standard input, and writes one JSON list of what the
machine code has: registers, spills, shared memory, and counts of instructions.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import GPUDriver
from triton.runtime import driver

DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class AbsentGpu(GPUDriver):
    """Answers for a GPU of one compute capability, as far as compiling asks."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> None:
        raise NotImplementedError("nothing runs here")

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty


def examine(compiled: Any) -> dict[str, Any]:
    """What the machine code of a compiled program uses."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        ask = [str(DISASSEMBLER), "--dump-resource-usage", file.name]
        usage = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        ask = [str(DISASSEMBLER), "--dump-sass", file.name]
        sass = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    found = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", sass, re.MULTILINE))
    return {**found, "shared": compiled.metadata.shared, "instructions": instructions}


if __name__ == "__main__":
    results = []
    for name, capability, launches in pickle.load(sys.stdin.buffer):
        driver.set_active(AbsentGpu(capability))
        results.append({"name": name, "capability": capability, "programs": [examine(x.compile()) for x in launches]})
    json.dump(results, sys.stdout)
