"""Every native kernel in every instruction set against float64."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.formats import CSR, Bitmask, BlockCSR
from sparsekit.kernels.native import NATIVE_KERNELS, describe
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from tests.numerics import assert_product
from tests.weights import SPECIAL, random_mask, random_weight, same_bits, seeds

CSR_MV, CSR_MM, BITMASK_MV, BLOCK_CSR_MM, NM_MV = NATIVE_KERNELS
ISAS = ("scalar", "avx2", "avx512", "avx512vpopcntdq")
STEMS = {"csr_mv_native": "csr_rows", "csr_mm_native": "csr_panels"}
"""Of kernels that share a format: its name is the stem of all others."""
BLOCKS = [(1, 1), (2, 2), (5, 3), (8, 1), (1, 16), (16, 1), (16, 16), (24, 7), (32, 8), (40, 4), (64, 64)]
SPARSITIES = (0.0, 0.3, 0.8, 0.97, 1.0)
LAYOUTS = {
    "contiguous": lambda rows, columns: random_weight((rows, columns), seed=1),
    "rows apart": lambda rows, columns: random_weight((rows, columns + 3), seed=1)[:, 1 : columns + 1],
    "columns apart": lambda rows, columns: random_weight((rows, 2 * columns + 1), seed=1)[:, : 2 * columns : 2],
    "transposed": lambda rows, columns: random_weight((columns, rows), seed=1).T,
    "one row": lambda rows, columns: random_weight((1, columns), seed=1).expand(rows, columns),
    "off a cache line": lambda rows, columns: random_weight((rows * columns + 1,), seed=1)[1:].view(rows, columns),
}


def kernels_and_isas():
    """Every table of ``kernels.def``; only the bitmask has one for avx512vpopcntdq."""
    return [
        pytest.param(kernel, isa, id=f"{kernel.name}-{isa}")
        for kernel, isa in itertools.product(NATIVE_KERNELS, ISAS)
        if isa != ISAS[-1] or kernel is BITMASK_MV
    ]


every_table = pytest.mark.parametrize(("kernel", "isa"), kernels_and_isas())


@contextmanager
def running(kernel, isa, threads=1, stem=""):
    """Bind and run with ``isa`` and ``threads``; skip where the processor or the build has not got it.

    The ``stem`` of ``kernels.def`` is that of the kernel where none is given.
    """
    stem = stem or STEMS.get(kernel.name, kernel.format.name)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEKIT_ISA", isa)
        found = describe()
        in_use = found["in_use"].get(stem)
        if in_use != isa:
            pytest.skip(f"{stem} runs as {in_use} here, not as {isa}{found['reason']}")
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def pack(kernel, weight, sparsity, block=(16, 16), seed=0):
    return kernel.format.pack(weight, random_mask(tuple(weight.shape), pattern_of(kernel, block), sparsity, seed))


def pattern_of(kernel, block):
    if kernel is NM_MV:
        return NM(2, 4)
    return Block(*block) if kernel is BLOCK_CSR_MM else Unstructured()


def check(kernel, packed, x, bias=None):
    assert_product(kernel.bind(packed)(x, bias), x, packed.unpack(), bias)


@every_table
@settings(max_examples=80, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 150), st.integers(0, 150)),
    block=st.sampled_from(BLOCKS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    options=st.tuples(st.sampled_from(SPARSITIES), seeds, st.booleans(), st.sampled_from([1, 2])),
)
def test_product(kernel, isa, sizes, block, layout, options):
    (batch, rows, columns), (sparsity, seed, with_bias, threads) = sizes, options
    with running(kernel, isa, threads):
        packed = pack(kernel, random_weight((rows, columns), seed=seed), sparsity, block, seed)
        bias = random_weight((rows,), seed=seed + 1) if with_bias else None
        check(kernel, packed, LAYOUTS[layout](batch, columns), bias)


@every_table
@pytest.mark.parametrize("columns", [1, 13, 67])
def test_every_batch_size_and_its_tails(kernel, isa, columns):
    with running(kernel, isa):
        packed = pack(kernel, random_weight((37, columns)), 0.4, (5, 3))
        multiply, weight, bias = kernel.bind(packed), packed.unpack(), random_weight((37,))
        for batch in (*range(70), 79, 80, 96, 127, 128, 130):
            x = random_weight((batch, columns), seed=batch)
            assert_product(multiply(x, bias), x, weight, bias)


@every_table
@pytest.mark.parametrize("rows", [1, 2, 15, 17, 31, 129, 2053])
def test_every_number_of_rows(kernel, isa, rows):
    with running(kernel, isa, threads=2):
        for sparsity in (0.5, 0.95):
            packed = pack(kernel, random_weight((rows, 96)), sparsity, (16, 8))
            check(kernel, packed, random_weight((3, 96)), random_weight((rows,)))


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("shape", [(128, 192), (65, 67), (23, 5)], ids=str)
def test_every_block_shape(isa, block, shape):
    with running(BLOCK_CSR_MM, isa):
        for batch, sparsity in itertools.product((1, 2, 3, 8, 9, 16, 37), (0.0, 0.6)):
            packed = pack(BLOCK_CSR_MM, random_weight(shape), sparsity, block)
            check(BLOCK_CSR_MM, packed, random_weight((batch, shape[1])), random_weight((shape[0],)))


@every_table
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_strides(kernel, isa, layout):
    with running(kernel, isa):
        for batch, columns in ((3, 48), (33, 61), (5, 1)):
            packed = pack(kernel, random_weight((40, columns)), 0.5, (8, 4))
            check(kernel, packed, LAYOUTS[layout](batch, columns), random_weight((80,))[::2])


@every_table
def test_negated_views(kernel, isa):
    with running(kernel, isa):
        packed, x = pack(kernel, random_weight((20, 32)), 0.5, (4, 4)), random_weight((3, 32))
        assert_product(kernel.bind(packed)(torch._neg_view(x), None), -x, packed.unpack())


@every_table
def test_the_output_lies_where_the_input_does(kernel, isa):
    with running(kernel, isa):
        packed, x = pack(kernel, random_weight((20, 32)), 0.5, (4, 4)), random_weight((3, 32))
        multiply = kernel.bind(packed)
        with torch.device("meta"):
            y = multiply(x, None)
        assert_product(y, x, packed.unpack())


@every_table
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_empty_rows_and_empty_ends(kernel, isa, sparsity):
    pattern = pattern_of(kernel, (4, 4))
    keep = random_mask((96, 64), pattern, sparsity).keep.clone()
    keep[:8] = keep[20:40] = keep[80:] = False
    with running(kernel, isa, threads=2):
        packed = kernel.format.pack(random_weight((96, 64)), Mask(keep, pattern))
        for batch in (1, 4, 40):
            check(kernel, packed, random_weight((batch, 64)), random_weight((96,)))


@every_table
def test_nan_infinity_subnormals_and_negative_zero_in_the_weight(kernel, isa):
    tiny = torch.finfo(torch.float32).tiny
    special = torch.tensor((*SPECIAL, tiny / 2, -tiny / 4, 2.0**-149))
    weight = random_weight((len(special) * 8, 40))
    for row, value in enumerate(special.repeat_interleave(7)):
        weight[row + row // 7, (5 * row) % 40] = value
    with running(kernel, isa):
        for sparsity, batch in itertools.product((0.0, 0.5), (1, 3, 20)):
            check(kernel, pack(kernel, weight, sparsity, (8, 4)), random_weight((batch, 40)))
        alone = torch.full((33, 40), tiny / 8)
        check(kernel, pack(kernel, alone, 0.5, (8, 4)), random_weight((5, 40)))


@every_table
def test_two_threads_share_out_all_rows(kernel, isa):
    long_row = random_mask((400, 256), Unstructured(), 0.99).keep
    long_row[77] = True
    masks = [long_row, random_mask((400, 256), Unstructured(), 0.3).keep, torch.eye(400, 256, dtype=torch.bool)]
    for keep, batch in itertools.product(masks, (4, 70)):
        pattern = pattern_of(kernel, (4, 4))
        legal = keep
        if kernel is BLOCK_CSR_MM:
            legal = pattern.spread(pattern.pool(keep) > 0, (400, 256))
        elif kernel is NM_MV:
            legal = keep & random_mask((400, 256), pattern, 0.5).keep
        mask = Mask(legal, pattern)
        packed = kernel.format.pack(random_weight((400, 256)), mask)
        for threads in (1, 2, 5):
            with running(kernel, isa, threads):
                check(kernel, packed, random_weight((batch, 256)), random_weight((400,)))


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("kernel", [CSR_MV, CSR_MM], ids=lambda k: k.name)
@pytest.mark.parametrize("columns", [2**16, 2**16 + 1, 140_003])
def test_wide_column_indices(kernel, isa, columns):
    keep = torch.zeros(9, columns, dtype=torch.bool)
    keep[0, -40:] = keep[2, ::10_000] = keep[3, 0] = keep[8, -1] = True
    weight = random_weight((9, columns))
    for full in (0, 2**15):  # columns of a row: few entries make wide tiles
        keep[4, :full] = True
        packed = CSR.pack(weight, Mask(keep))
        assert (packed.column_indices.dtype == torch.int32) == (columns > 2**16)
        with running(kernel, isa, threads=2):
            for batch in (1, 5):
                check(kernel, packed, random_weight((batch, columns)), random_weight((9,)))


@pytest.mark.parametrize("isa", ISAS[:3])
def test_blocks_of_a_wide_matrix(isa):
    """So few tokens fit beside so many columns that every panel is a chunk of its own."""
    packed = pack(BLOCK_CSR_MM, random_weight((32, 30_000)), 0.9)
    with running(BLOCK_CSR_MM, isa, threads=2):
        for batch in (1, 17, 50):
            check(BLOCK_CSR_MM, packed, random_weight((batch, 30_000)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [CSR_MV, CSR_MM, BITMASK_MV, BLOCK_CSR_MM], ids=lambda k: k.name)
def test_int64_offsets(kernel, isa):
    packed = pack(kernel, random_weight((40, 50)), 0.6, (8, 8))
    name = next(n for n in packed.tensor_names() if n.endswith("offsets"))
    tensors = packed.tensors()
    wide = packed.from_parts({**tensors, name: tensors[name].long()}, packed.integers())
    with running(kernel, isa):
        check(kernel, wide, random_weight((6, 50)), random_weight((40,)))


@every_table
def test_parts_that_start_anywhere_or_are_strided(kernel, isa):
    packed = pack(kernel, random_weight((40, 50)), 0.6, (8, 8))

    def moved(tensor):
        room = tensor.new_empty(tensor.numel() + 1)
        room[1:] = tensor.flatten()
        return room[1:].view(tensor.shape)

    def strided(tensor):
        return torch.stack([tensor, tensor], dim=-1)[..., 0]

    with running(kernel, isa):
        for change in (moved, strided):
            parts = {name: change(tensor) for name, tensor in packed.tensors().items()}
            assert all(torch.equal(parts[n], t) for n, t in packed.tensors().items())
            check(kernel, packed.from_parts(parts, packed.integers()), random_weight((6, 50)))


@every_table
def test_calls_from_several_python_threads(kernel, isa):
    with running(kernel, isa):
        packed = pack(kernel, random_weight((200, 150)), 0.5, (8, 8))
        multiply, bias = kernel.bind(packed), random_weight((200,))
        inputs = [random_weight((batch, 150), seed=batch) for batch in (1, 3, 17, 64, 2, 33)] * 4
        alone = [multiply(x, bias) for x in inputs]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda x: multiply(x, bias), inputs))
        assert all(same_bits(a, b) for a, b in zip(alone, together))


@every_table
def test_keeps_the_packed_tensors_alive(kernel, isa):
    with running(kernel, isa):
        weight, x = random_weight((64, 64)), random_weight((4, 64))
        packed = pack(kernel, weight, 0.5, (8, 8))
        dense, multiply = packed.unpack(), kernel.bind(packed)
        del packed
        _ = [torch.empty(64 * 32) for _ in range(50)]
        assert_product(multiply(x, None), x, dense)


def test_describes_what_runs(monkeypatch):
    found = describe()
    assert {"csr_rows", "csr_panels", "bitmask", "block_csr"} <= set(found["built"])
    assert all("scalar" in isas for isas in found["built"].values())
    monkeypatch.setenv("SPARSEKIT_ISA", "scalar")
    assert set(describe()["in_use"].values()) == {"scalar"}
    assert (CSR.name, Bitmask.name, BlockCSR.name) == ("csr", "bitmask", "block_csr")
