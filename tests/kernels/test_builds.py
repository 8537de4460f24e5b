"""Builds that lack instruction sets, or have no extension at all, run in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES_ONLY = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests run without the sources")

CHECK = """
import sys
import torch
import sparsekit as sk
from sparsekit.kernels import KERNELS, Problem
from sparsekit.kernels.native import NATIVE_CONV_KERNELS, NATIVE_KERNELS, describe
from tests.kernels.test_extension import packed_for
from tests.numerics import assert_product
from tests.weights import random_weight

assert sk.__file__.startswith(sys.argv[1]), sk.__file__
for kernel in NATIVE_KERNELS:
    packed, x = packed_for(kernel, (36, 52)), random_weight((3, 52))
    refusal = kernel.refuses(Problem(packed, 3))
    print("refused" if refusal else "runs", kernel.name, refusal or "")
    assert_product(sk.nn.SparseLinear.from_packed(packed)(x), x, packed.unpack())
for kernel in NATIVE_CONV_KERNELS:
    conv = torch.nn.Conv2d(6, 8, 3, padding=1).eval()
    sk.prune(conv, sk.Magnitude(), pattern=sk.KernelSlice(), sparsity=0.5)
    layer = sk.nn.SparseConv2d.from_dense(conv, format=kernel.format)
    images = random_weight((2, 6, 9, 11))
    assert torch.allclose(layer(images), conv(images), atol=1e-5)
model = torch.nn.Sequential(torch.nn.Linear(52, 36), torch.nn.ReLU(), torch.nn.Linear(36, 8)).eval()
sk.prune(model, sk.Magnitude(), sparsity=0.9)
assert torch.allclose(sk.compile(model, x)(x), model(x), atol=1e-5)
print("in use", sorted(set(describe()["in_use"].values())))
print("built", sorted({isa for isas in describe()["built"].values() for isa in isas}))
print("reason", describe()["reason"])
"""


def built(folder, **options):
    """Copy the package without its extension, build as ``options`` say, and return what :data:`CHECK` prints."""
    shutil.copytree(ROOT / "sparsekit", folder / "sparsekit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = {**os.environ, "SPARSEKIT_NO_CUDA": "1", **options}
    environment.pop("SPARSEKIT_ISA", None)
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp"]
    ran = subprocess.run(
        [*build, str(folder / "temp")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-c", CHECK, str(folder)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@SOURCES_ONLY
def test_a_build_of_scalar_alone_says_so_and_multiplies(tmp_path):
    found = built(tmp_path, SPARSEKIT_BUILD_ISAS="scalar")
    assert found.count("runs ") == 5
    assert "in use ['scalar']\nbuilt ['scalar']\nreason \n" in found


@SOURCES_ONLY
def test_without_the_extension_kernels_refuse_and_the_rest_works(tmp_path):
    found = built(tmp_path, SPARSEKIT_NO_EXTENSION="1")
    assert list((tmp_path / "sparsekit").glob("*.so")) == []
    assert found.count("refused ") == 5
    assert found.count("the extension sparsekit._C is not built (No module named 'sparsekit._C')") == 6
    assert "in use []\nbuilt []\n" in found


@SOURCES_ONLY
def test_an_unknown_instruction_set_stops_the_build(tmp_path):
    environment = {**os.environ, "SPARSEKIT_BUILD_ISAS": "avx2,sse9"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path), "--build-temp"]
    ran = subprocess.run(
        [*command, str(tmp_path / "temp")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert (
        "SPARSEKIT_BUILD_ISAS: expected some of scalar, avx2, avx512, avx512vpopcntdq, avx512bf16, "
        "avx512vnni, avx512vbmi2, avx512bitalg, amx, got sse9" in ran.stderr
    )


def told_by_setup(folder, release, **options):
    """Run setup.py, to no end, with an nvcc of that release; return its exit status and what it said."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
    nvcc.chmod(0o755)
    environment = {**os.environ, "CUDA_HOME": str(folder), **options}
    environment.pop("SPARSEKIT_NO_CUDA", None)
    command = [sys.executable, "setup.py", "--name"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@SOURCES_ONLY
def test_a_cuda_compiler_that_is_too_old_is_passed_over(tmp_path):
    status, said = told_by_setup(tmp_path, "12.4")
    assert status == 0
    assert f"no CUDA kernels: expected nvcc 12.5 or newer, got {tmp_path}/bin/nvcc" in said


@SOURCES_ONLY
@pytest.mark.parametrize("wrong", ["75", "80,ninety", ""])
def test_an_unknown_gpu_architecture_stops_the_build(tmp_path, wrong):
    status, said = told_by_setup(tmp_path, "13.0", SPARSEKIT_CUDA_ARCHS=wrong)
    assert status != 0
    assert f"SPARSEKIT_CUDA_ARCHS: expected architectures from 80 on such as 80,90a, got {wrong!r}" in said
    assert told_by_setup(tmp_path / "new", "13.0", SPARSEKIT_CUDA_ARCHS="86, 90a,100f")[0] == 0
