"""Products by a bitmask in bfloat16, in every instruction set, against float64."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import FormatError
from sparsekit.formats import Bitmask
from sparsekit.kernels import KERNELS, Problem, choose
from sparsekit.kernels.native import describe, extension
from sparsekit.kernels.native.bitmask import BITMASK_MM_BF16, MOST_ROWS_BF16
from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from tests.kernels.test_extension import Guarded
from tests.kernels.test_native import LAYOUTS, running
from tests.kernels.test_native_half import check_what_follows
from tests.numerics import assert_product
from tests.weights import SPECIAL, random_mask, random_weight, same_bits, seeds

HALF = torch.bfloat16
STEM = "bitmask_half"
every_isa = pytest.mark.parametrize("isa", ["scalar", "avx512vbmi2", "avx512bitalg"])


def half(*shape, seed=0):
    return random_weight(shape, HALF, seed)


def pack(weight, sparsity, seed=0):
    return Bitmask.pack(weight, random_mask(tuple(weight.shape), Unstructured(), sparsity, seed))


def bound_on(isa, threads=1):
    return running(BITMASK_MM_BF16, isa, threads, STEM)


def check(packed, x, bias=None):
    assert_product(BITMASK_MM_BF16.bind(packed)(x, bias), x, packed.unpack(), bias)


@every_isa
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 150), st.integers(0, 150)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    options=st.tuples(st.sampled_from([0.0, 0.3, 0.8, 0.97, 1.0]), seeds, st.booleans(), st.sampled_from([1, 2])),
)
def test_product(isa, sizes, layout, options):
    (batch, rows, columns), (sparsity, seed, with_bias, threads) = sizes, options
    with bound_on(isa, threads):
        bias = half(rows, seed=seed + 1) if with_bias else None
        check(pack(half(rows, columns, seed=seed), sparsity, seed), LAYOUTS[layout](batch, columns).to(HALF), bias)


@every_isa
@pytest.mark.parametrize("columns", [1, 13, 66])
def test_every_batch_size_and_its_tails(isa, columns):
    with bound_on(isa):
        packed = pack(half(53, columns), 0.4)
        multiply, weight, bias = BITMASK_MM_BF16.bind(packed), packed.unpack(), half(53)
        for batch in (*range(51), 64, 65):
            x = half(batch, columns, seed=batch)
            assert_product(multiply(x, bias), x, weight, bias)


@every_isa
@pytest.mark.parametrize("rows", [1, 15, 17, 31, 129, 2053])
def test_every_number_of_rows_in_shares(isa, rows):
    with bound_on(isa, threads=3):
        for sparsity, batch in itertools.product((0.5, 0.95), (1, 3, 20)):
            check(pack(half(rows, 96), sparsity), half(batch, 96), half(rows))


@every_isa
def test_inputs_of_any_strides_and_negated_ones(isa):
    views = [half(3, 51)[:, 1:49], half(3, 97)[:, :96:2], half(48, 3).T, half(1, 48).expand(3, 48)]
    views += [half(145)[1:].view(3, 48), half(29, 49)[:, :48], torch._neg_view(half(3, 48))]
    with bound_on(isa):
        for x in views:
            check(pack(half(40, 48), 0.5), x, half(80)[::2])


@every_isa
def test_the_result_is_rounded_once_whatever_follows(isa):
    with bound_on(isa):
        check_what_follows(BITMASK_MM_BF16.bind, pack(half(175, 40), 0.5))


@every_isa
def test_nan_infinity_and_zeros_of_both_signs_in_the_weight(isa):
    weight = half(len(SPECIAL) * 8, 40)
    for row, value in enumerate(torch.tensor(SPECIAL).repeat_interleave(7)):
        weight[row + row // 7, (5 * row) % 40] = value
    with bound_on(isa):
        for sparsity, batch in itertools.product((0.0, 0.5), (1, 3, 20)):
            check(pack(weight, sparsity), half(batch, 40))


@every_isa
def test_single_weights_meet_their_own_input(isa):
    """Each place of a word by itself, beside an input that would be seen: the odd last column has no neighbour."""
    x = torch.exp2(torch.arange(33) % 13 - 6.0).to(HALF)[None].contiguous()
    with bound_on(isa):
        for column in range(33):
            keep = torch.zeros(33, 33, dtype=torch.bool)
            keep[:, column] = True
            weight = torch.arange(1, 34, dtype=HALF)[:, None].expand(33, 33).contiguous()
            y = BITMASK_MM_BF16.bind(Bitmask.pack(weight, Mask(keep)))(x, None)
            assert torch.equal(y[0], weight[:, 0] * x[0, column])


@every_isa
def test_two_threads_share_out_all_rows_and_agree_with_one(isa):
    one_long_row = random_mask((400, 700), Unstructured(), 0.97).keep.clone()
    one_long_row[76] = True
    empty_ends = one_long_row.clone()
    empty_ends[:40] = empty_ends[300:] = False
    for keep, batch in itertools.product((one_long_row, empty_ends), (1, 20)):
        packed, x, results = Bitmask.pack(half(400, 700), Mask(keep)), half(batch, 700), []
        for threads in (1, 2, 5):
            with bound_on(isa, threads):
                check(packed, x)
                results.append(BITMASK_MM_BF16.bind(packed)(x, None))
        assert all(same_bits(results[0], y) for y in results)


@every_isa
def test_several_python_threads_at_once(isa):
    with bound_on(isa):
        packed = pack(half(96, 80), 0.5)
        multiply, weight = BITMASK_MM_BF16.bind(packed), packed.unpack()
        inputs = [half(1 + 7 * i, 80, seed=i) for i in range(6)] * 4
        with ThreadPoolExecutor(4) as pool:
            for x, y in zip(inputs, pool.map(lambda x: multiply(x, None), inputs)):
                assert_product(y, x, weight)


@every_isa
@pytest.mark.parametrize("columns", [20, 33, 64])
def test_nothing_beyond_the_end_of_a_buffer_is_touched(isa, columns, monkeypatch):
    monkeypatch.setattr(extension, "multiply_with", lambda native, rows, activation, *keep: native)
    guarded = Guarded()
    for sparsity in (0.0, 0.5):
        packed = pack(half(36, columns), sparsity)
        parts = {name: guarded.at_the_end(tensor) for name, tensor in packed.tensors().items()}
        with bound_on(isa):
            native = BITMASK_MM_BF16.bind(packed.from_parts(parts, packed.integers()))
        bias = guarded.at_the_end(half(36))
        for batch in (1, 3, 29):
            x, y = guarded.at_the_end(half(batch, columns)), guarded.at_the_end(torch.zeros(batch, 36, dtype=HALF))
            residual = guarded.at_the_end(torch.zeros(batch, 36, dtype=HALF))
            native.multiply(*(x.data_ptr(), batch, x.stride(0), bias.data_ptr(), y.data_ptr()), 0, residual.data_ptr())
            assert_product(y, x, packed.unpack(), bias)


def test_damaged_parts_are_refused():
    packed = pack(half(12, 20), 0.5)
    for name, place, value in (
        ("row_offsets", 1, 90),
        ("row_offsets", 12, 3),
        ("bits", (0, 0), 0),
        ("bits", (3, 1), -1),
    ):
        tensors = {n: t.clone() for n, t in packed.tensors().items()}
        tensors[name][place] = value
        with pytest.raises(FormatError, match="bitmask"):
            BITMASK_MM_BF16.bind(packed.from_parts(tensors, packed.integers()))


def test_it_is_preferred_for_few_tokens_and_refuses_the_rest_in_sentences(monkeypatch):
    packed = pack(half(64, 64), 0.5)
    if describe()["in_use"][STEM] != "scalar":
        assert choose(Problem(packed, MOST_ROWS_BF16), KERNELS) is BITMASK_MM_BF16
        many = BITMASK_MM_BF16.refuses(Problem(packed, MOST_ROWS_BF16 + 1))
        assert str(many) == f"it runs batches up to {MOST_ROWS_BF16}, not {MOST_ROWS_BF16 + 1}"
    wide = BITMASK_MM_BF16.refuses(Problem(pack(random_weight((8, 8)), 0.5), 1))
    assert str(wide) == "it runs bfloat16, not float32"
    monkeypatch.setenv("SPARSEKIT_ISA", "scalar")
    assert "VBMI2 or BITALG" in str(BITMASK_MM_BF16.refuses(Problem(packed, 1)))
    assert choose(Problem(packed, 1), KERNELS).name == "bitmask_mv_native_half"
