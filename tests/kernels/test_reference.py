"""The reference kernels against float64, and the rule they are judged by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.kernels.base import Problem, choose
from sparsekit.kernels.reference import REFERENCE_KERNELS
from tests.numerics import assert_product, slack
from tests.weights import FLOATING, PATTERNS, random_mask, random_weight, seeds, sparsities

every_kernel = pytest.mark.parametrize("kernel", REFERENCE_KERNELS, ids=lambda k: k.name)


@every_kernel
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    sizes=st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 70), sparsities),
    dtype=st.sampled_from(FLOATING),
    seed=seeds,
    with_bias=st.booleans(),
)
def test_product(kernel, data, sizes, dtype, seed, with_bias):
    batch, rows, columns, sparsity = sizes
    accepted = [p for p in PATTERNS if kernel.format.accepts(random_mask((8, 16), p, 0.5)) is None]
    mask = random_mask((rows, columns), data.draw(st.sampled_from(accepted)), sparsity, seed)
    packed = kernel.format.pack(random_weight((rows, columns), dtype, seed), mask)
    x = random_weight((batch, columns), dtype, seed + 1)
    bias = random_weight((rows,), dtype, seed + 2) if with_bias else None
    assert_product(kernel.bind(packed)(x, bias), x, packed.unpack(), bias)


@every_kernel
def test_refuses_nothing_and_is_chosen(kernel):
    pattern = next(p for p in PATTERNS if kernel.format.accepts(random_mask((8, 16), p, 0.5)) is None)
    packed = kernel.format.pack(random_weight((8, 16)), random_mask((8, 16), pattern, 0.5))
    assert choose(Problem(packed, 3), REFERENCE_KERNELS) is kernel
    assert kernel.name == f"{packed.name}_linear_reference"


@every_kernel
def test_computes_in_the_weights_dtype_under_autocast(kernel):
    pattern = next(p for p in PATTERNS if kernel.format.accepts(random_mask((8, 16), p, 0.5)) is None)
    packed = kernel.format.pack(random_weight((32, 64)), random_mask((32, 64), pattern, 0.5))
    x = random_weight((4, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kernel.bind(packed)(x, None)
    assert_product(y, x, packed.unpack())


def test_the_rule_finds_one_wrong_element():
    x, weight = random_weight((3, 64)), random_weight((5, 64), seed=1)
    y = x @ weight.T
    assert_product(y, x, weight)
    y[1, 2] += 2 * slack(64) * torch.finfo(torch.float32).eps * float(x[1].abs() @ weight[2].abs())
    with pytest.raises(AssertionError, match=r"1 of 15 outputs are wrong; at \(1, 2\)"):
        assert_product(y, x, weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_rule_carries_nan_and_infinity(value):
    x, weight = random_weight((3, 8)).abs(), random_weight((5, 8), seed=1)
    weight[2, 3] = value
    assert_product(x @ weight.T, x, weight)
    for wrong in (0.0, -float("inf")):
        y = x @ weight.T
        y[0, 2] = wrong
        with pytest.raises(AssertionError, match="1 of 15 outputs are wrong"):
            assert_product(y, x, weight)
    with pytest.raises(AssertionError, match="3 of 15 outputs are wrong"):
        assert_product((x @ weight.T).nan_to_num(0.0, 0.0), x, weight)
    y = x @ weight.T
    y[0, 0] = float("nan")
    with pytest.raises(AssertionError, match="1 of 15 outputs are wrong"):
        assert_product(y, x, weight)
