"""The kernels' own source, run on the CPU: ``emulator/`` takes the place of the instructions and of the launch.

What the copy engine and the tensor cores do on their own is done at random times there, or as late as may be; memory
that nobody wrote is NaN. So a wait too few, a slot given back too early, a wrong parity or byte count shows.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int64, c_void_p
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.kernels.cuda import extension
from sparsekit.kernels.cuda.layout import mma_panels, wgmma_panels
from sparsekit.patterns import NM
from tests.kernels.test_extension import Guarded
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

SOURCES = Path(__file__).parents[3] / "csrc" / "cuda"
EMULATOR = Path(__file__).parent / "emulator"
OWN = ("nm_mma.cu", "nm_parts.cu", "nm_wgmma_sm90a.cu", "nm.h", "nm_places.h", "elements.cuh")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
LAY_OUT = {"mma": mma_panels, "wgmma": wgmma_panels}

pytestmark = [
    pytest.mark.skipif(not SOURCES.exists(), reason="the tests run without the sources"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    """The kernels, compiled among the emulator's headers, which the quoted includes then find first."""
    folder = tmp_path_factory.mktemp("emulated")
    for path in (*EMULATOR.iterdir(), *(SOURCES / name for name in OWN)):
        shutil.copy(path, folder)
    compiling = []
    for source in (*sorted(folder.glob("*.cu")), *sorted(folder.glob("*.cpp"))):
        command = [str(COMPILER), "-std=c++17", "-O1", "-fPIC", "-I.", "-include", "emulator.h", "-x", "c++", "-c"]
        compiling.append(subprocess.Popen([*command, source.name, "-o", f"{source.name}.o"], cwd=folder))
    assert [process.wait() for process in compiling] == [0] * 5
    objects = [path.name for path in sorted(folder.glob("*.o"))]
    subprocess.run([str(COMPILER), "-shared", *objects, "-o", "emulated.so"], cwd=folder, check=True)
    loaded = ctypes.CDLL(str(folder / "emulated.so"))
    loaded.run.argtypes = [
        *(c_char_p, c_void_p, c_int64, c_int64, c_int),  # kernel, panels, rows, columns, bf16
        *(c_void_p, c_int64, c_int64, c_void_p, c_void_p),  # x, batch, x_stride, bias, y
        *(c_int, c_int, c_void_p, c_int, c_char_p, c_int),  # tokens, splits, partial, multiprocessors, failure, room
    ]
    return loaded


def run(
    library: ctypes.CDLL,
    kernel: str,
    packed: NMPacked,
    operands: tuple[Tensor, Tensor | None],
    cut: tuple[int, int],
    place: Callable[[Tensor], Tensor] = Tensor.contiguous,
) -> Tensor:
    """The product of ``operands`` = (x, bias) by ``kernel``, on two multiprocessors.

    ``cut`` is (tokens of a tile, parts); ``place`` moves a buffer of the kernel to where it shall lie.
    """
    x, bias = operands
    panels, x = place(LAY_OUT[kernel](packed)), extension.readable(x)
    y = place(torch.full((x.shape[0], packed.rows), float("nan"), dtype=x.dtype))
    partial = place(torch.full((cut[1], *y.shape), float("nan")))
    failure = ctypes.create_string_buffer(300)
    wrong = library.run(
        *(kernel.encode(), panels.data_ptr(), packed.rows, packed.columns, x.dtype == torch.bfloat16),
        *(x.data_ptr(), x.shape[0], x.stride(0), 0 if bias is None else bias.data_ptr(), y.data_ptr()),
        *(*cut, partial.data_ptr(), 2, failure, len(failure)),
    )
    assert not wrong, failure.value.decode()
    return y


def drawn(shape: tuple[int, int], batch: int, dtype: torch.dtype) -> tuple[NMPacked, Tensor, Tensor]:
    packed = NMPacked.pack(random_weight(shape, dtype), random_mask(shape, NM(2, 4), 0.1))
    return packed, random_weight((batch, shape[1]), dtype, 1), random_weight((shape[0],), dtype, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "shape", "batch", "cut"),
    [
        ("mma", (20, 24), 3, (8, 1)),
        ("mma", (1, 1), 1, (8, 1)),
        ("mma", (133, 1029), 9, (8, 2)),
        ("mma", (150, 1025), 33, (32, 3)),
        ("mma", (17, 520), 66, (64, 1)),
        ("wgmma", (20, 24), 3, (128, 1)),
        ("wgmma", (1, 1), 1, (128, 1)),
        ("wgmma", (133, 1410), 140, (128, 2)),
        ("wgmma", (300, 130), 70, (128, 1)),
        ("wgmma", (136, 962), 257, (256, 1)),
    ],
)
def test_the_kernels_multiply(library, dtype, kernel, shape, batch, cut):
    packed, x, bias = drawn(shape, batch, dtype)
    for given in (bias, None):
        assert_product(run(library, kernel, packed, (x, given), cut), x, packed.unpack(), given)


@pytest.mark.parametrize(("kernel", "tokens"), [("mma", 8), ("wgmma", 128)])
def test_strided_tokens_are_read_in_place(library, kernel, tokens):
    packed, _, bias = drawn((40, 136), 5, torch.float16)
    wide = random_weight((5, 400), torch.float16, 3)
    x = wide[:, 8:144]
    assert extension.readable(x).data_ptr() == x.data_ptr()
    assert_product(run(library, kernel, packed, (x, bias), (tokens, 1)), x, packed.unpack(), bias)


@pytest.mark.parametrize(
    ("kernel", "shape", "batch", "cut"),
    [
        ("mma", (133, 136), 5, (8, 1)),
        ("mma", (16, 1032), 35, (32, 2)),
        ("wgmma", (133, 136), 5, (128, 1)),
        ("wgmma", (72, 584), 130, (128, 2)),
    ],
)
def test_nothing_beyond_the_end_of_a_buffer_is_touched(library, kernel, shape, batch, cut):
    guarded = Guarded()
    packed, x, bias = drawn(shape, batch, torch.float16)
    operands = guarded.at_the_end(x), guarded.at_the_end(bias)
    assert extension.readable(operands[0]) is operands[0]
    y = run(library, kernel, packed, operands, cut, guarded.at_the_end)
    assert_product(y, x, packed.unpack(), bias)


@pytest.mark.parametrize("kernel", ["mma", "wgmma"])
@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ((48, 1), "tokens, got 48"),
        ((0, 1), "tokens, got 0"),
        ((64, 0), "parts of the columns, got 0"),
        ((64, 9), "parts of the columns, got 9"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(library, kernel, cut, said):
    packed, x, bias = drawn((16, 64), 2, torch.float16)
    with pytest.raises(AssertionError, match=said):
        run(library, kernel, packed, (x, bias), cut)
