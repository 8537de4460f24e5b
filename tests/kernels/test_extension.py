"""The compiled extension at its edges: what it refuses, what it never touches, and how it is missed."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.errors import FormatError, KernelError
from sparsekit.formats import CSR, Bitmask
from sparsekit.kernels import KERNELS, Problem, choose
from sparsekit.kernels.activation import ACTIVATIONS
from sparsekit.kernels.native import NATIVE_KERNELS, describe, extension, measured_peaks
from sparsekit.nn import SparseLinear
from sparsekit.patterns import Unstructured
from tests.kernels.test_native import (
    BITMASK_MV,
    BLOCK_CSR_MM,
    CSR_MM,
    CSR_MV,
    NM_MV,
    every_table,
    pattern_of,
    running,
)
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

every_kernel = pytest.mark.parametrize("kernel", NATIVE_KERNELS, ids=lambda k: k.name)


def packed_for(kernel, shape=(12, 20), sparsity=0.5, dtype=torch.float32):
    mask = random_mask(shape, pattern_of(kernel, (4, 4)), sparsity)
    return kernel.format.pack(random_weight(shape, dtype), mask)


@every_kernel
def test_refuses_in_a_sentence(kernel):
    packed = packed_for(kernel)
    assert kernel.refuses(Problem(packed, 2)) is None
    for dtype, word in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        refusal = kernel.refuses(Problem(packed_for(kernel, dtype=dtype), 1))
        assert str(refusal) == f"it runs float32, not {word}"
    meta = packed.from_parts({n: t.to("meta") for n, t in packed.tensors().items()}, packed.integers())
    assert str(kernel.refuses(Problem(meta, 1))) == "it runs on the CPU, not on meta"


@pytest.mark.parametrize("kernel", [CSR_MV, BITMASK_MV, NM_MV], ids=lambda k: k.name)
def test_matrix_vector_kernels_refuse_many_tokens(kernel):
    packed = packed_for(kernel)
    assert kernel.refuses(Problem(packed, 4)) is None
    assert str(kernel.refuses(Problem(packed, 5))) == "it runs batches up to 4, not 5"


def damaged(packed, name, change):
    tensors = {n: t.clone() for n, t in packed.tensors().items()}
    change(tensors[name])
    return packed.from_parts(tensors, packed.integers())


def put(at, value):
    return lambda tensor: tensor.view(-1).__setitem__(at, value)


ROWWISE = [CSR_MV, CSR_MM, BITMASK_MV]
WRONG = {
    "offsets that fall": (ROWWISE, "row_offsets", put(3, 1), "offsets that rise from 0, got 1 at 3"),
    "offsets above the end": (ROWWISE, "row_offsets", put(4, 10**6), "offsets that rise"),
    "offsets below zero": (ROWWISE, "row_offsets", put(1, -5), "offsets that rise from 0, got -5"),
    "a first offset": (ROWWISE, "row_offsets", put(0, 1), "offsets that rise from 0, got 1 at 0"),
    "a last offset": (ROWWISE, "row_offsets", put(12, 10**6), "offsets that end at 120, got 1000000"),
    "a column too far": ([CSR_MV, CSR_MM], "column_indices", put(0, 20), "row 0: expected ascending columns below 20"),
    "columns that fall": ([CSR_MV, CSR_MM], "column_indices", put(1, 0), "row 0: expected ascending columns below 20"),
    "a bit too many": ([BITMASK_MV], "bits", put(2, 2**16 - 1), "row 1: expected as many bits as the offsets say"),
    "block offsets that fall": ([BLOCK_CSR_MM], "block_offsets", put(1, 9), "offsets that rise"),
    "a block too far": ([BLOCK_CSR_MM], "block_indices", put(0, 5), "block row 0: expected ascending block columns"),
    "a block before the first": ([BLOCK_CSR_MM], "block_indices", put(0, -1), "below 5, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_damaged_parts_are_refused_and_never_read(case):
    kernels, name, change, message = WRONG[case]
    for kernel in kernels:
        packed = damaged(packed_for(kernel), name, change)
        with pytest.raises(FormatError, match=message):
            kernel.bind(packed)
        with pytest.raises(FormatError, match=message):
            SparseLinear.from_packed(packed)(torch.zeros(1, 20))


def test_bits_beyond_the_last_column_are_refused():
    packed = Bitmask.pack(torch.ones(2, 20), random_mask((2, 20), Unstructured(), 0.0))

    def move_one_bit_out(bits):
        bits[1, 1] = 0b10111  # 20 columns: four bits in the last word

    with pytest.raises(FormatError, match="row 1: expected no bits beyond the last column"):
        BITMASK_MV.bind(damaged(packed, "bits", move_one_bit_out))


def test_wide_indices_below_zero_are_refused():
    packed = CSR.pack(torch.ones(1, 2**16 + 1), random_mask((1, 2**16 + 1), Unstructured(), 0.99))
    for kernel in (CSR_MV, CSR_MM):
        with pytest.raises(FormatError, match="got -1 after -1"):
            kernel.bind(damaged(packed, "column_indices", put(0, -1)))


def test_the_classes_themselves_raise():
    module = extension.MODULE
    with pytest.raises(ValueError, match="expected block sides of at least 1"):
        module.BlockPlaces(4, 4, 0, 4, 0, (0, 0), (0, 0), False)
    values, indices, offsets = torch.zeros(2, 17), torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1])
    places = module.BlockPlaces(4, 4, 4, 4, 1, extension.memory(indices), extension.memory(offsets), True)
    with pytest.raises(ValueError, match="expected values that start on a cache line"):
        module.BlockCsr(places, extension.memory(values[0, 1:]))


class Guarded:
    """Memory whose next byte is not there: to read or write beyond the end kills the process."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.maps = []

    def at_the_end(self, tensor):
        """A copy of ``tensor`` that ends where the accessible memory does."""
        size = tensor.numel() * tensor.element_size()
        if size == 0:
            return tensor
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        area = mmap.mmap(-1, room + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        assert self.libc.mprotect(ctypes.c_void_p(address + room), mmap.PAGESIZE, 0) == 0
        self.maps.append(area)
        whole = torch.frombuffer(area, dtype=torch.uint8, count=room)
        copy = whole[room - size :].view(tensor.dtype).view(tensor.shape)
        copy.copy_(tensor)
        return copy


@every_table
@pytest.mark.parametrize("columns", [20, 32, 48])
def test_nothing_beyond_the_end_of_a_buffer_is_touched(kernel, isa, columns, monkeypatch):
    monkeypatch.setattr(extension, "multiply_with", lambda native, rows, activation, *keep: native)
    guarded = Guarded()
    for sparsity in (0.0, 0.5, 0.9):
        packed = packed_for(kernel, (36, columns), sparsity)
        parts = {name: guarded.at_the_end(tensor) for name, tensor in packed.tensors().items()}
        with running(kernel, isa):
            native = kernel.bind(packed.from_parts(parts, packed.integers()))
        bias = guarded.at_the_end(random_weight((36,)))
        for batch in (1, 3, 19):
            x, y = guarded.at_the_end(random_weight((batch, columns))), guarded.at_the_end(torch.zeros(batch, 36))
            residual = guarded.at_the_end(torch.zeros(batch, 36))
            for activation, added in ((ACTIVATIONS.index("gelu"), 0), (0, residual.data_ptr())):
                native.multiply(x.data_ptr(), batch, x.stride(0), bias.data_ptr(), y.data_ptr(), activation, added)
            assert_product(y, x, packed.unpack(), bias)


def test_an_unknown_instruction_set_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("SPARSEKIT_ISA", "sse9")
    known = "scalar, avx2, avx512, avx512vpopcntdq, avx512vnni, avx512vbmi2, avx512bf16, avx512bitalg, amx"
    message = f"SPARSEKIT_ISA: expected one of {known}, got 'sse9'"
    model, x = nn.Sequential(nn.Linear(20, 12)), torch.zeros(3, 20)
    for call in (
        lambda: sk.plan(model, x),
        lambda: sk.compile(model, x),
        lambda: SparseLinear.from_packed(packed_for(CSR_MM))(x),
        describe,
        lambda: measured_peaks(1),
        *(lambda kernel=kernel: kernel.bind(packed_for(kernel)) for kernel in NATIVE_KERNELS),
    ):
        with pytest.raises(KernelError, match=message):
            call()


def test_an_empty_choice_of_instruction_set_is_none(monkeypatch):
    usual = describe()["in_use"]
    monkeypatch.setenv("SPARSEKIT_ISA", "")
    assert describe()["in_use"] == usual


@pytest.fixture
def _not_built(monkeypatch):
    monkeypatch.setattr(extension, "MODULE", None)
    monkeypatch.setattr(extension, "WHY_NOT", "the extension sparsekit._C is not built (told so by a test)")


@pytest.mark.usefixtures("_not_built")
def test_without_the_extension_native_kernels_refuse_and_the_rest_works():
    for kernel in NATIVE_KERNELS:
        packed = packed_for(kernel)
        assert str(kernel.refuses(Problem(packed, 1))) == "the extension sparsekit._C is not built (told so by a test)"
        assert choose(Problem(packed, 3), KERNELS).name == f"{packed.name}_linear_reference"
        with pytest.raises(KernelError, match=rf"{kernel.name}: the extension sparsekit\._C is not built"):
            choose(Problem(packed, 1), NATIVE_KERNELS)
        x = random_weight((3, 20))
        assert_product(SparseLinear.from_packed(packed)(x), x, packed.unpack())
    assert describe() == {"built": {}, "in_use": {}, "cpu_features": [], "amx": "", "reason": extension.WHY_NOT}
    assert measured_peaks(1) == {}


@pytest.mark.usefixtures("_not_built")
def test_without_the_extension_a_model_compiles():
    model, x = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4)).eval(), random_weight((3, 20))
    sk.prune(model, sk.Magnitude(), sparsity=0.9)
    plan = sk.plan(model, x)
    assert not any(layer.sparse for layer in plan.layers)
    with torch.no_grad():
        assert torch.allclose(plan.apply()(x), model(x), atol=1e-6)


def test_the_reason_is_what_the_import_said(monkeypatch):
    def fail(name):
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(extension.importlib, "import_module", fail)
    assert extension.load() == (None, "the extension sparsekit._C is not built (sparsekit._C: undefined symbol)")


FEWER_THREADS = """
import torch
from sparsekit.kernels.native import NATIVE_KERNELS
from tests.kernels.test_extension import packed_for
from tests.numerics import assert_product
from tests.weights import random_weight

torch.set_num_threads(5)
for kernel in NATIVE_KERNELS:
    packed, x = packed_for(kernel, (400, 256)), random_weight((4, 256))
    y = kernel.bind(packed)(x, None)
    assert_product(y, x, packed.unpack())
"""


def test_every_share_is_computed_where_the_pool_grants_fewer_threads():
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FEWER_THREADS]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_measures_the_machine():
    peaks = measured_peaks(1)
    assert peaks["flops"] > 0
    assert peaks["bandwidth"] > 0
