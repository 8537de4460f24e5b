"""Products by 8-bit weights against exact integers, in every instruction set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import FormatError
from sparsekit.formats import QUANTIZED_FORMATS, Int8Bitmask, Int8BlockCSR, Int8Dense
from sparsekit.kernels import QUANTIZED_REFERENCE_KERNELS, Problem, choose
from sparsekit.kernels.activation import ACTIVATIONS, APPLY
from sparsekit.kernels.native import NATIVE_INT8_KERNELS, extension
from sparsekit.kernels.native.int8 import INT8_BITMASK_MV, INT8_BLOCK_CSR_MM, INT8_DENSE_MM, MOST_COLUMNS, MOST_ROWS
from sparsekit.patterns import Block, Unstructured
from tests.kernels.test_extension import Guarded, damaged, put
from tests.kernels.test_native import LAYOUTS, running
from tests.numerics import assert_integer_product
from tests.weights import FLOATING, SPECIAL, random_mask, random_weight, seeds

BLOCKS = [(1, 4), (2, 4), (5, 12), (8, 8), (16, 4), (16, 16), (24, 4), (32, 32), (40, 8), (100, 4)]
TABLES = {
    INT8_BITMASK_MV: ("int8_bitmask", ("scalar", "avx2", "avx512vbmi2")),
    INT8_BLOCK_CSR_MM: ("int8_block_csr", ("scalar", "avx2", "avx512", "avx512vnni")),
    INT8_DENSE_MM: ("int8_block_csr", ("scalar", "avx2", "avx512", "avx512vnni")),
}
every_table = pytest.mark.parametrize(
    ("kernel", "isa"),
    [pytest.param(kernel, isa, id=f"{kernel.name}-{isa}") for kernel, (_, isas) in TABLES.items() for isa in isas],
)
every_kernel = pytest.mark.parametrize("kernel", NATIVE_INT8_KERNELS, ids=lambda k: k.name)


def pack(family, weight, sparsity=0.5, block=(16, 8), seed=0):
    """Rows of sizes that differ by powers of two, so that no scale passes for that of another row."""
    weight = weight * torch.exp2(torch.arange(weight.shape[0]) % 7 - 3.0).to(weight.dtype)[:, None]
    pattern = Block(*block) if family is Int8BlockCSR else Unstructured()
    return family.pack(weight, random_mask(tuple(weight.shape), pattern, sparsity, seed))


def limited(kernel, batch):
    return batch % (MOST_ROWS + 1) if kernel is INT8_BITMASK_MV else batch


def bound_on(kernel, isa, threads=1):
    return running(kernel, isa, threads, TABLES[kernel][0])


@every_table
@settings(max_examples=80, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 150), st.integers(0, 300)),
    block=st.sampled_from(BLOCKS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    options=st.tuples(st.sampled_from((0.0, 0.3, 0.8, 0.97, 1.0)), seeds, st.booleans(), st.booleans()),
)
def test_integer_products_are_exact(kernel, isa, sizes, block, layout, options):
    (batch, rows, columns), (sparsity, seed, with_bias, with_residual) = sizes, options
    batch = limited(kernel, batch)
    with bound_on(kernel, isa, 1 + seed % 2):
        packed = pack(kernel.format, random_weight((rows, columns), seed=seed), sparsity, block, seed)
        x = LAYOUTS[layout](batch, columns)
        bias = random_weight((rows,), seed=seed + 1) if with_bias else None
        residual = LAYOUTS[layout](batch, rows) if with_residual else None
        assert_integer_product(kernel.bind(packed)(x, bias, residual), packed, x, bias, residual)


@every_table
@pytest.mark.parametrize("columns", [1, 13, 67, 131])
def test_every_batch_size_and_its_tails(kernel, isa, columns):
    with bound_on(kernel, isa):
        packed = pack(kernel.format, random_weight((37, columns)), 0.4, (5, 4))
        multiply, bias = kernel.bind(packed), random_weight((37,))
        for batch in range(1, 5) if kernel is INT8_BITMASK_MV else (*range(40), 63, 64, 65):
            x = random_weight((batch, columns), seed=batch)
            assert_integer_product(multiply(x, bias), packed, x, bias)


@every_table
def test_many_tokens_are_cut_into_chunks(kernel, isa):
    with bound_on(kernel, isa, threads=2):
        packed = pack(kernel.format, random_weight((33, 8192)), 0.9)
        for batch in (3, 4) if kernel is INT8_BITMASK_MV else (31, 32, 33, 71):
            x = random_weight((batch, 8192), seed=batch)
            assert_integer_product(kernel.bind(packed)(x, None), packed, x)


@every_table
def test_weights_that_lie_on_huge_pages(kernel, isa):
    with bound_on(kernel, isa, threads=2):
        packed = pack(kernel.format, random_weight((150, 8192)), 0.1)
        x = random_weight((1, 8192))
        assert_integer_product(kernel.bind(packed)(x, None), packed, x)


@every_table
def test_tokens_that_are_not_finite_give_nan_and_spoil_no_others(kernel, isa):
    with bound_on(kernel, isa):
        packed = pack(kernel.format, random_weight((33, 70)), 0.9)
        multiply, bias = kernel.bind(packed), random_weight((33,))
        for batch in (4,) if kernel is INT8_BITMASK_MV else (4, 21):
            for at, value in enumerate(SPECIAL):
                x = random_weight((batch, 70), seed=at)
                x[at % batch, 11 * at] = value
                y = multiply(x, bias)
                assert bool(y.isnan().any()) == (value - value != 0.0)
                assert_integer_product(y, packed, x, bias)


@every_table
def test_tokens_of_any_size(kernel, isa):
    sizes = torch.tensor([0.0, 1e-45, 1e-38, 1e-31, 1e-20, 1.0, 1e20, 3e38])[:, None]
    with bound_on(kernel, isa):
        packed = pack(kernel.format, torch.ones(19, 40), 0.5, (16, 8))
        multiply = kernel.bind(packed)
        for tokens in sizes.split(4 if kernel is INT8_BITMASK_MV else 8):
            x = tokens * random_weight((len(tokens), 40)).clamp(-1.0, 1.0) / 400
            assert_integer_product(multiply(x, None), packed, x)


@every_table
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_layers_of_16_bits_round_the_result_once(kernel, isa, dtype):
    packed = pack(kernel.format, random_weight((35, 70), dtype))
    if dtype is torch.float64:
        assert str(kernel.refuses(Problem(packed, 1))) == "it runs float32 and bfloat16 and float16, not float64"
        return
    with bound_on(kernel, isa):
        for batch in (1, 4) if kernel is INT8_BITMASK_MV else (1, 4, 19):
            x, bias = random_weight((batch, 70), dtype, 1), random_weight((35,), dtype, 2)
            residual = random_weight((35, batch), dtype, 3).T
            assert_integer_product(kernel.bind(packed)(x, bias, residual), packed, x, bias, residual)


@every_table
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_come_before_the_residual(kernel, isa, activation):
    with bound_on(kernel, isa):
        packed = pack(kernel.format, random_weight((75, 40)))
        for batch in (1, 3) if kernel is INT8_BITMASK_MV else (1, 3, 17, 70):
            x, bias, residual = random_weight((batch, 40)), random_weight((75,)), random_weight((batch, 75), seed=1)
            wanted = APPLY[activation](kernel.bind(packed)(x, bias).double()) + residual
            y = kernel.bind(packed, activation)(x, bias, residual)
            torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=1e-5)


@every_table
def test_sums_of_the_most_columns_still_fit(kernel, isa):
    signs = torch.tensor([1.0, -1.0])[:, None].expand(2, MOST_COLUMNS)
    with bound_on(kernel, isa):
        packed = kernel.format.pack(signs, random_mask((2, MOST_COLUMNS), Block(2, 4), 0.0))
        for x in (torch.ones(1, MOST_COLUMNS), -torch.ones(3, MOST_COLUMNS)):
            assert_integer_product(kernel.bind(packed)(x, None), packed, x)


@every_kernel
def test_several_threads_call_one_weight_at_once(kernel):
    packed = pack(kernel.format, random_weight((130, 520)), 0.8)
    multiply = kernel.bind(packed)
    inputs = [random_weight((1 + i % (4 if kernel is INT8_BITMASK_MV else 40), 520), seed=i) for i in range(48)]
    wanted = [multiply(x, None) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for y, right in zip(pool.map(lambda x: multiply(x, None), inputs), wanted):
            assert torch.equal(y, right)


@every_table
@pytest.mark.parametrize("columns", [20, 64, 131])
def test_nothing_beyond_the_end_of_a_buffer_is_touched(kernel, isa, columns, monkeypatch):
    monkeypatch.setattr(extension, "multiply_with", lambda native, rows, activation: native)
    guarded = Guarded()
    packed = pack(kernel.format, random_weight((37, columns)), 0.5)
    parts = {name: guarded.at_the_end(tensor) for name, tensor in packed.tensors().items()}
    with bound_on(kernel, isa):
        native = kernel.bind(packed.from_parts(parts, packed.integers()))
    bias = guarded.at_the_end(random_weight((37,)))
    for batch in (1, 3) if kernel is INT8_BITMASK_MV else (1, 3, 19):
        x, y = guarded.at_the_end(random_weight((batch, columns))), guarded.at_the_end(torch.zeros(batch, 37))
        residual = guarded.at_the_end(random_weight((batch, 37)))
        native.multiply(x.data_ptr(), batch, columns, bias.data_ptr(), y.data_ptr(), 0, residual.data_ptr())
        assert_integer_product(y, packed, x, bias, residual)


WRONG = {
    "offsets that fall": (INT8_BITMASK_MV, "row_offsets", put(3, 1), "offsets that rise from 0, got 1 at 3"),
    "a last offset": (INT8_BITMASK_MV, "row_offsets", put(12, 10**6), "offsets that end at 120, got 1000000"),
    "a bit too many": (INT8_BITMASK_MV, "bits", put(2, 2**16 - 1), "row 1: expected as many bits as the offsets say"),
    "block offsets that fall": (INT8_BLOCK_CSR_MM, "block_offsets", put(1, 9), "offsets that rise"),
    "a block too far": (INT8_BLOCK_CSR_MM, "block_indices", put(0, 5), "block row 0: expected ascending block columns"),
    "a block before the first": (INT8_BLOCK_CSR_MM, "block_indices", put(0, -1), "below 5, got -1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_places_are_refused(case):
    kernel, name, change, message = WRONG[case]
    with pytest.raises(FormatError, match=message):
        kernel.bind(damaged(pack(kernel.format, random_weight((12, 20)), 0.5, (4, 4)), name, change))


@every_kernel
def test_damaged_numbers_are_refused(kernel):
    packed = pack(kernel.format, random_weight((12, 20)), 0.5, (4, 4))
    for value in (-1.0, float("nan"), float("inf")):
        wrong = damaged(packed, "scales", put(7, value))
        for check in (partial(kernel.bind, wrong), wrong.validate):
            with pytest.raises(FormatError, match=r"expected a finite scale of at least 0|expected numbers from 0 on"):
                check()
    for at in (0, packed.values.numel() - 1):
        wrong = damaged(packed, "values", put(at, -128))
        for check in (partial(kernel.bind, wrong), wrong.validate):
            with pytest.raises(FormatError, match="expected integers from -127 to 127, got -128"):
                check()
    none = damaged(packed, "scales", put(7, 0.0))
    x = random_weight((2, 20))
    assert_integer_product(kernel.bind(none)(x, None), none, x)


def test_the_classes_themselves_refuse_sizes():
    module, memory, nothing = extension.MODULE, extension.memory, (0, 0)
    scales, one, wide = torch.ones(4), torch.ones(1), torch.zeros(MOST_COLUMNS + 1, dtype=torch.int8)
    for rows, columns in ((-1, 4), (-64, 4), (4, -1)):
        with pytest.raises(ValueError, match="int8_dense: expected sizes from 0 to 2147483647, got -"):
            module.Int8BlockCsr(rows, columns, nothing, memory(scales))
    with pytest.raises(ValueError, match="int8: expected at most 131072 columns, got 131073"):
        module.Int8BlockCsr(1, MOST_COLUMNS + 1, memory(wide), memory(one))
    indices, offsets = torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1])
    places = module.BlockPlaces(4, 6, 4, 6, 1, memory(indices), memory(offsets), True)
    values = torch.zeros(24, dtype=torch.int8)
    with pytest.raises(ValueError, match="expected blocks of a multiple of 4 columns, got 6"):
        module.Int8BlockCsr(places, memory(values), memory(scales))
    start = torch.zeros(1, dtype=torch.int64)
    native = module.Int8Bitmask(0, 4, 0, nothing, nothing, memory(start), True, nothing)
    with pytest.raises(ValueError, match="int8_bitmask: expected at most 4 tokens"):
        native.multiply(0, 5, 4, 0, 0, 0, 0)


def test_refuses_in_a_sentence():
    wide = Int8Dense.pack(torch.ones(1, MOST_COLUMNS + 1), random_mask((1, MOST_COLUMNS + 1), Unstructured(), 0.0))
    assert str(INT8_DENSE_MM.refuses(Problem(wide, 1))) == "it runs weights of up to 131072 columns, not of 131073"
    bits = pack(Int8Bitmask, random_weight((12, 20)))
    assert str(INT8_BITMASK_MV.refuses(Problem(bits, 5))) == "it runs batches up to 4, not 5"
    thin = pack(Int8BlockCSR, random_weight((12, 20)), 0.5, (4, 6))
    assert str(INT8_BLOCK_CSR_MM.refuses(Problem(thin, 1))) == "it runs blocks of a multiple of 4 columns, not of 6"
    for packed, batch in ((wide, 1), (bits, 5), (thin, 1)):
        every = (*NATIVE_INT8_KERNELS, *QUANTIZED_REFERENCE_KERNELS)
        assert choose(Problem(packed, batch), every).name == f"{packed.name}_linear_reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", QUANTIZED_FORMATS, ids=lambda f: f.name)
@given(rows=st.integers(0, 40), columns=st.integers(0, 70), seed=seeds, sparsity=st.sampled_from((0.0, 0.5, 0.97)))
@settings(max_examples=40, deadline=None)
def test_weights_are_rounded_by_half_a_step_and_only_once(family, dtype, rows, columns, seed, sparsity):
    pattern = Block(16, 8) if family is Int8BlockCSR else Unstructured()
    mask = random_mask((rows, columns), pattern, sparsity, seed)
    weight = random_weight((rows, columns), dtype, seed)
    packed = family.pack(weight, mask)
    packed.validate()
    error = (packed.unpack() - weight * mask.keep).abs()
    assert bool((error <= packed.scales[:, None] / 2).all())
    assert not bool(packed.unpack()[~mask.keep].any())
    again = family.pack(packed.unpack(), mask)
    assert all(torch.equal(part, again.tensors()[name]) for name, part in packed.tensors().items())


@pytest.mark.parametrize("family", QUANTIZED_FORMATS, ids=lambda f: f.name)
def test_weights_that_are_not_finite_are_refused(family):
    for value in (float("nan"), float("inf")):
        weight = random_weight((12, 20))
        weight[3, 4] = value
        with pytest.raises(FormatError, match="expected weights that are finite, got some that are not"):
            family.pack(weight, random_mask((12, 20), Block(4, 4), 0.0))
