"""What the compilers made of the sources, read from the module that is built."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparsekit.kernels.cuda import extension


def disassembler() -> str | None:
    """cuobjdump: of the CUDA toolkit, or the one that comes with Triton."""
    found = importlib.util.find_spec("triton")
    folders = [] if found is None or found.origin is None else [Path(found.origin).parent / "backends/nvidia/bin"]
    return shutil.which("cuobjdump") or next((shutil.which("cuobjdump", path=str(f)) for f in folders), None)


TOOL = disassembler()
pytestmark = [
    pytest.mark.skipif(extension.MODULE is None, reason=extension.WHY_NOT),
    pytest.mark.skipif(TOOL is None, reason="there is no cuobjdump"),
]


def dumped(option: str) -> dict[str, dict[str, str]]:
    """What cuobjdump prints for each architecture and function."""
    command = [str(TOOL), option, str(extension.MODULE.__file__)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^Fatbin elf code:$", printed, flags=re.MULTILINE)[1:]:
        arch = re.search(r"arch = sm_(\w+)", part)[1]
        for function in re.split(r"^\s*Function ?: ?|^ Function ", part, flags=re.MULTILINE)[1:]:
            name, _, body = function.partition("\n")
            found.setdefault(arch, {})[name.strip().rstrip(":")] = body
    return found


@pytest.fixture(scope="module")
def code() -> dict[str, dict[str, str]]:
    return dumped("-sass")


def of(code: dict[str, dict[str, str]], arch: str, kernel: str) -> list[str]:
    if arch not in code:
        pytest.skip(f"this build is not for {arch}")
    return [body for name, body in code[arch].items() if kernel in name]


def test_every_kernel_is_built_for_every_architecture(code):
    assert set(code) == set(extension.MODULE.architectures.split(","))
    for functions in code.values():
        assert sum("multiply_few" in name for name in functions) == 6
        assert sum("sum_parts" in name for name in functions) == 2


def test_nothing_spills_and_nothing_has_a_stack():
    for functions in dumped("--dump-resource-usage").values():
        for name, usage in functions.items():
            assert "STACK:0 " in usage, name
            assert "LOCAL:0 " in usage, name


def test_nothing_touches_local_memory(code):
    for functions in code.values():
        assert not [name for name, body in functions.items() if re.search(r"\b(LDL|STL)\b", body)]


@pytest.mark.parametrize("arch", ["80", "90a"])
def test_few_tokens_run_on_sparse_tensor_cores(code, arch):
    for body in of(code, arch, "multiply_few"):
        assert re.search(r"HMMA\.SP\.16832\.F32", body)
        assert not re.search(r"[HQ]MMA\.16", body)
        assert "LDGSTS.E.BYPASS.128" in body


def test_many_tokens_run_on_the_sparse_tensor_cores_of_a_warpgroup(code):
    bodies = of(code, "90a", "multiply_many")
    shapes = {shape for body in bodies for shape in re.findall(r"[HQ]GMMA[.\w]*", body)}
    assert shapes == {f"HGMMA.SP.64x{n}x32.F32{kind}" for n in (128, 256) for kind in ("", ".BF16")}
    for body in bodies:
        for needed in ("UBLKCP", "UTMALDG.2D", "STSM", "USETMAXREG.DEALLOC", "USETMAXREG.TRY_ALLOC"):
            assert needed in body, needed


def test_multiplications_are_left_in_flight(code):
    """ptxas waits after each one where it cannot follow the registers; here only the last block waits for all."""
    for body in of(code, "90a", "multiply_many"):
        waits = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)", body)
        assert waits.count("0") == 1
        assert waits.count("1") >= 1
