"""Native products in bfloat16 and float16, in every instruction set, against float64."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import FormatError
from sparsekit.formats import BlockCSR, NMPacked
from sparsekit.kernels import KERNELS, Problem, choose
from sparsekit.kernels.activation import ACTIVATIONS, APPLY
from sparsekit.kernels.native import NATIVE_HALF_KERNELS, describe, extension
from sparsekit.kernels.native.block_csr import places_of
from sparsekit.kernels.native.block_half import BLOCK_CSR_MM_BF16, MOST_COLUMNS
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from tests.kernels.test_extension import Guarded
from tests.kernels.test_native import BLOCKS, LAYOUTS
from tests.kernels.test_native import running as running_kernel
from tests.numerics import assert_product, assert_within, bound_of
from tests.weights import SPECIAL, random_mask, random_weight, seeds

HALF = torch.bfloat16
EMULATED = "emulated amx"  # the kernel for tiles, on any processor
ISAS = ("scalar", "avx2", "avx512", "avx512bf16", "amx", EMULATED)
WIDENED = [kernel for kernel in NATIVE_HALF_KERNELS if kernel.name.endswith("_half")]
SIDES = [*BLOCKS, (16, 2), (32, 1), (32, 32), (3, 16), (24, 6), (100, 2)]
every_isa = pytest.mark.parametrize("isa", ISAS)


@contextmanager
def running(isa, threads=1):
    """Yield what binds for ``isa``, with ``threads``; skip where the processor or the build has not got it."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        if isa != EMULATED:
            patch.setenv("SPARSEKIT_ISA", isa)
            in_use = describe()["in_use"].get("block_half")
            if in_use != isa:
                pytest.skip(f"block_half runs as {in_use} here, not as {isa}")
        torch.set_num_threads(threads)
        try:
            yield bind_emulated if isa == EMULATED else BLOCK_CSR_MM_BF16.bind
        finally:
            torch.set_num_threads(before)


def bind_emulated(packed, activation="none"):
    packed = extension.laid_out(packed)
    places = extension.build("BlockPlaces", *places_of(packed))
    native = extension.build("BlockHalf", places, extension.memory(packed.values), True)
    return extension.multiply_with(native, packed.rows, activation)


def pack(weight, sparsity, block=(16, 16), seed=0):
    return BlockCSR.pack(weight, random_mask(tuple(weight.shape), Block(*block), sparsity, seed))


def half(*shape, seed=0):
    return random_weight(shape, HALF, seed)


def check(bind, packed, x, bias=None):
    assert_product(bind(packed)(x, bias), x, packed.unpack(), bias)


@every_isa
@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 60), st.integers(0, 150), st.integers(0, 150)),
    block=st.sampled_from(SIDES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    options=st.tuples(st.sampled_from([0.0, 0.3, 0.8, 0.97, 1.0]), seeds, st.booleans(), st.sampled_from([1, 2])),
)
def test_product(isa, sizes, block, layout, options):
    (batch, rows, columns), (sparsity, seed, with_bias, threads) = sizes, options
    with running(isa, threads) as bind:
        packed = pack(half(rows, columns, seed=seed), sparsity, block, seed)
        bias = half(rows, seed=seed + 1) if with_bias else None
        check(bind, packed, LAYOUTS[layout](batch, columns).to(HALF), bias)


@every_isa
def test_inputs_of_any_strides_and_negated_ones(isa):
    """A change of dtype drops most strides of ``LAYOUTS``: here are some in bfloat16 itself."""
    views = [half(3, 51)[:, 1:49], half(3, 97)[:, :96:2], half(48, 3).T, half(1, 48).expand(3, 48)]
    views += [half(145)[1:].view(3, 48), half(29, 49)[:, :48], torch._neg_view(half(3, 48))]
    with running(isa) as bind:
        for x in views:
            check(bind, pack(half(40, 48), 0.5, (8, 4)), x, half(80)[::2])


@every_isa
@pytest.mark.parametrize("columns", [1, 13, 66])
@pytest.mark.parametrize("block", [(5, 3), (16, 1), (48, 2)], ids=str)
def test_every_batch_size_and_its_tails(isa, columns, block):
    with running(isa) as bind:
        packed = pack(half(53, columns), 0.4, block)
        multiply, weight, bias = bind(packed), packed.unpack(), half(53)
        for batch in (*range(53), 79, 80, 96, 127, 130):
            x = half(batch, columns, seed=batch)
            assert_product(multiply(x, bias), x, weight, bias)


@every_isa
@pytest.mark.parametrize("block", SIDES, ids=str)
@pytest.mark.parametrize("shape", [(128, 192), (65, 67), (23, 5)], ids=str)
def test_every_block_shape(isa, block, shape):
    with running(isa) as bind:
        for batch, sparsity in itertools.product((1, 2, 9, 37), (0.0, 0.6)):
            check(bind, pack(half(*shape), sparsity, block), half(batch, shape[1]), half(shape[0]))


def check_what_follows(bind, packed):
    """Every activation, with a residual and without, against float64."""
    x, bias = half(17, packed.columns, seed=1), half(packed.rows, seed=2)
    residual = half(17, 2 * packed.rows, seed=3)[:, ::2]
    sums = x.double() @ packed.unpack().double().T + bias.double()
    scale = x.double().abs() @ packed.unpack().double().abs().T + bias.double().abs()
    for activation, added in itertools.product(ACTIVATIONS, (None, residual)):
        y = bind(packed, activation)(x, bias, *(() if added is None else (added,)))
        active = APPLY[activation](sums)
        exact = active + (0.0 if added is None else added.double())
        # An activation passes on at most 1.13 of an error, gelu is right to 3e-4 of itself; all else is fp32, but for
        # the one rounding to 8 bits.
        own = 3e-4 * active.abs() if activation == "gelu" else 3e-6 * sums.abs()
        assert_within(y, exact, 1.13 * bound_of(scale, packed.columns, torch.float32) + exact.abs() / 256 + own)


@every_isa
def test_the_result_is_rounded_once_whatever_follows(isa):
    with running(isa) as bind:
        check_what_follows(bind, pack(half(75, 40), 0.5, (8, 4)))


@every_isa
def test_nan_infinity_and_zeros_of_both_signs_in_the_weight(isa):
    weight = half(len(SPECIAL) * 8, 40)
    for row, value in enumerate(torch.tensor(SPECIAL).repeat_interleave(7)):
        weight[row + row // 7, (5 * row) % 40] = value
    with running(isa) as bind:
        for sparsity, batch, block in itertools.product((0.0, 0.5), (1, 3, 20), ((8, 4), (16, 1))):
            check(bind, pack(weight, sparsity, block), half(batch, 40))


@every_isa
def test_subnormals_are_zero_or_themselves(isa):
    """The instruction for pairs takes them for 0; either is within one smallest normal number for each product."""
    tiny = torch.finfo(HALF).tiny
    weight, x = torch.full((33, 40), tiny / 8, dtype=HALF), half(5, 40)
    with running(isa) as bind:
        y = bind(pack(weight, 0.0, (8, 4)))(x, None)
    assert bool(
        ((y.double() - x.double() @ weight.double().T).abs() <= tiny / 8 * x.double().abs().sum(1)[:, None]).all()
    )


@every_isa
def test_what_lies_beside_a_word_or_the_matrix_does_not_reach_the_result(isa):
    """Odd columns share a word with what was removed; weights that are not stored meet no input beyond the matrix."""
    keep = torch.zeros(20, 7, dtype=torch.bool)
    keep[:16, 1] = keep[16:, 6] = True
    packed = BlockCSR.pack(half(20, 7), Mask(keep, Block(16, 1)))
    x = torch.full((30, 9), float("nan"), dtype=HALF)[:, :7]
    x[:] = half(30, 7)
    with running(isa) as bind:
        for batch in (1, 5, 30):
            check(bind, packed, x[:batch], half(20))


@every_isa
def test_two_threads_share_out_all_rows(isa):
    one_long_row = random_mask((400, 256), Block(4, 4), 0.97).keep.clone()
    one_long_row[76:80] = True
    empty_ends = one_long_row.clone()
    empty_ends[:40] = empty_ends[300:] = False
    for keep, batch, threads in itertools.product((one_long_row, empty_ends), (4, 70), (1, 2, 5)):
        with running(isa, threads) as bind:
            check(bind, BlockCSR.pack(half(400, 256), Mask(keep, Block(4, 4))), half(batch, 256), half(400))


@every_isa
def test_wide_weights_take_several_chunks_and_too_wide_ones_are_refused(isa):
    with running(isa, threads=2) as bind:
        check(bind, pack(half(20, 15_001), 0.9), half(50, 15_001))
        check(bind, pack(half(2, MOST_COLUMNS), 0.99, (2, 16)), half(2, MOST_COLUMNS))
    wide = pack(half(2, MOST_COLUMNS + 1), 0.999, (2, 16))
    assert "131072 columns" in str(BLOCK_CSR_MM_BF16.refuses(Problem(wide, 4)))
    with running(isa) as bind, pytest.raises(FormatError, match="at most 131072 columns, got 131073"):
        bind(wide)


@every_isa
def test_several_python_threads_at_once(isa):
    with running(isa) as bind:
        multiply, weight = bind(packed := pack(half(96, 80), 0.5)), packed.unpack()
        inputs = [half(1 + 7 * i, 80, seed=i) for i in range(6)] * 4
        with ThreadPoolExecutor(4) as pool:
            for x, y in zip(inputs, pool.map(lambda x: multiply(x, None), inputs)):
                assert_product(y, x, weight)


@every_isa
@pytest.mark.parametrize("columns", [20, 33, 64])
def test_nothing_beyond_the_end_of_a_buffer_is_touched(isa, columns, monkeypatch):
    monkeypatch.setattr(extension, "multiply_with", lambda native, rows, activation, *keep: native)
    guarded = Guarded()
    for sparsity, block in itertools.product((0.0, 0.5), ((4, 4), (16, 1), (40, 3))):
        packed = pack(half(36, columns), sparsity, block)
        parts = {name: guarded.at_the_end(tensor) for name, tensor in packed.tensors().items()}
        with running(isa) as bind:
            native = bind(packed.from_parts(parts, packed.integers()))
        bias = guarded.at_the_end(half(36))
        for batch in (1, 3, 29):
            x, y = guarded.at_the_end(half(batch, columns)), guarded.at_the_end(torch.zeros(batch, 36, dtype=HALF))
            residual = guarded.at_the_end(torch.zeros(batch, 36, dtype=HALF))
            operands = (x.data_ptr(), batch, x.stride(0), bias.data_ptr(), y.data_ptr())
            native.multiply(*operands, 0, residual.data_ptr())
            assert_product(y, x, packed.unpack(), bias)


def test_amx_is_used_or_refused_in_a_sentence():
    refusal = describe()["amx"]
    assert (describe()["in_use"]["block_half"] == "amx") == (refusal == "")
    assert refusal == "" or len(refusal.split()) > 4


def test_damaged_parts_are_refused():
    packed = pack(half(12, 20), 0.5, (4, 4))
    for name, place, value in (("block_offsets", 1, 9), ("block_indices", 0, 5), ("block_indices", 0, -1)):
        tensors = {n: t.clone() for n, t in packed.tensors().items()}
        tensors[name][place] = value
        with pytest.raises(FormatError, match="block_csr"):
            BLOCK_CSR_MM_BF16.bind(packed.from_parts(tensors, packed.integers()))


def test_bfloat16_blocks_have_a_kernel_of_their_own():
    packed = pack(half(64, 64), 0.5)
    assert choose(Problem(packed, 5), KERNELS) is BLOCK_CSR_MM_BF16
    assert (
        str(BLOCK_CSR_MM_BF16.refuses(Problem(pack(random_weight((8, 8)), 0.5), 5))) == "it runs bfloat16, not float32"
    )


def pack_for(kernel, weight, sparsity, seed=0):
    pattern = {BlockCSR: Block(4, 4), NMPacked: NM(2, 4)}.get(kernel.format, Unstructured())
    return kernel.format.pack(weight, random_mask(tuple(weight.shape), pattern, sparsity, seed))


@pytest.mark.parametrize("kernel", WIDENED, ids=lambda k: k.name)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 20), st.integers(0, 40), st.integers(0, 40)),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    options=st.tuples(st.sampled_from([0.0, 0.5, 1.0]), seeds, st.booleans(), st.booleans()),
)
def test_sixteen_bits_by_way_of_fp32(kernel, sizes, dtype, options):
    (batch, rows, columns), (sparsity, seed, with_bias, strided) = sizes, options
    packed = pack_for(kernel, random_weight((rows, columns), dtype, seed), sparsity, seed)
    if kernel.refuses(Problem(packed, batch)) is not None:
        return
    x = random_weight((batch, columns), dtype, seed + 1)
    x = x.T.contiguous().T if strided else x
    bias = random_weight((rows,), dtype, seed + 2) if with_bias else None
    y = kernel.bind(packed)(x, bias)
    assert_product(y, x, packed.unpack(), bias)
    # one rounding of a sum in fp32
    exact = x.double() @ packed.unpack().double().T + (0.0 if bias is None else bias.double())
    scale = x.double().abs() @ packed.unpack().double().abs().T + (0.0 if bias is None else bias.double().abs())
    limits = torch.finfo(dtype)
    assert_within(y, exact, bound_of(scale, columns, torch.float32) + exact.abs() * limits.eps / 2 + limits.tiny)


@pytest.mark.parametrize("kernel", WIDENED, ids=lambda k: k.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_follows_is_computed_in_fp32(kernel, dtype):
    packed, x = pack_for(kernel, random_weight((40, 24), dtype), 0.5), random_weight((3, 24), dtype, 1)
    bias, residual = random_weight((40,), dtype, 2), random_weight((3, 40), dtype, 3)
    exact = APPLY["gelu"](x.double() @ packed.unpack().double().T + bias.double()) + residual.double()
    y = kernel.bind(packed, "gelu")(x, bias, residual)
    assert_within(y, exact, exact.abs() * torch.finfo(dtype).eps / 2 + 3e-5)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("threads", [1, 3])
def test_panels_convert_by_parts(isa, threads):
    """Several panels, blocks of columns and chunks of rows, each widened and rounded by itself."""
    kernel = next(kernel for kernel in WIDENED if kernel.name == "csr_mm_native_half")
    weight, bias = half(150, 5003), half(150, seed=1)
    weight[:100] *= 4
    with running_kernel(kernel, isa, threads, "csr_panels"):
        multiply = kernel.bind(packed := pack_for(kernel, weight, 0.9), "relu")
        for batch in (2, 17, 150, 301):
            x = half(batch, 5010, seed=batch)[:, 3:5006]
            exact = x.double() @ packed.unpack().double().T + bias.double()
            scale = x.double().abs() @ packed.unpack().double().abs().T + bias.double().abs()
            bound = bound_of(scale, 5003, torch.float32) + exact.abs() * torch.finfo(HALF).eps / 2
            assert_within(multiply(x, bias), exact.clamp(min=0), bound)


@pytest.mark.parametrize("kernel", WIDENED, ids=lambda k: k.name)
def test_conversion_is_offered_for_sixteen_bits_alone(kernel):
    wide = pack_for(kernel, random_weight((8, 8)), 0.5)
    assert str(kernel.refuses(Problem(wide, 2))) == "it runs bfloat16 and float16, not float32"
    names = [k.name for k in KERNELS if k.format is kernel.format]
    assert names.index(kernel.name) > names.index(kernel.name.removesuffix("_half"))
    if "_mv_" in kernel.name:
        packed = pack_for(kernel, half(8, 8), 0.5)
        assert str(kernel.refuses(Problem(packed, 50))) == "it runs batches up to 4, not 50"


def test_without_the_extension_nothing_is_converted(monkeypatch):
    monkeypatch.setattr(extension, "MODULE", None)
    for kernel in NATIVE_HALF_KERNELS:
        assert kernel.refuses(Problem(pack_for(kernel, half(8, 8), 0.5), 2)) is not None
