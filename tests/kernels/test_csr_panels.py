"""CSR against panels of tokens: tiles, pairs of rows, and columns that are packed block by block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.formats import CSR
from sparsekit.mask import Mask
from sparsekit.patterns import Block, Unstructured
from tests.kernels.test_native import CSR_MM, ISAS, check, running
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight, same_bits, seeds

every_isa = pytest.mark.parametrize("isa", ISAS[:3])
PATTERNS = (Unstructured(), Block(2, 1), Block(4, 1), Block(3, 2), Block(1, 8))


def uneven_mask(shape, pattern, sparsity, seed):
    """A mask of a pattern, one of its rows full, the next one empty."""
    keep = random_mask(shape, pattern, sparsity, seed).keep.clone()
    if shape[0] > 2:
        row = seed % (shape[0] - 1)
        keep[row], keep[row + 1] = True, False
    return Mask(keep)


@every_isa
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 150), st.integers(1, 140), st.integers(1, 300)),
    options=st.tuples(st.sampled_from(PATTERNS), st.sampled_from([0.2, 0.5, 0.9]), seeds, st.sampled_from([1, 2])),
)
def test_product_of_rows_that_share_columns_or_do_not(isa, sizes, options):
    (batch, rows, columns), (pattern, sparsity, seed, threads) = sizes, options
    with running(CSR_MM, isa, threads):
        mask = uneven_mask((rows, columns), pattern, sparsity, seed)
        packed = CSR.pack(random_weight((rows, columns), seed=seed), mask)
        check(CSR_MM, packed, random_weight((batch, columns), seed=seed + 1), random_weight((rows,)))


@every_isa
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_columns_in_several_blocks(isa, pattern):
    """So many columns that a panel, wide or narrow, is packed in parts, and the sums wait for the next."""
    shape = (67, 9001)
    packed = CSR.pack(random_weight(shape), uneven_mask(shape, pattern, 0.9, seed=20))
    with running(CSR_MM, isa, threads=2):
        for batch in (2, 20, 49, 131):
            check(CSR_MM, packed, random_weight((batch, shape[1])), random_weight((shape[0],)))


@every_isa
def test_one_weight_for_narrow_and_wide_panels_in_turn(isa):
    weight, bias = random_weight((130, 600)), random_weight((130,))
    packed = CSR.pack(weight, random_mask((130, 600), Unstructured(), 0.5))
    with running(CSR_MM, isa):
        multiply, dense = CSR_MM.bind(packed), packed.unpack()
        for batch in (3, 100, 16, 65, 33, 128, 0):
            x = random_weight((batch, 600), seed=batch)
            assert_product(multiply(x, bias), x, dense, bias)


@every_isa
def test_first_calls_from_several_python_threads(isa):
    packed = CSR.pack(random_weight((200, 400)), random_mask((200, 400), Unstructured(), 0.5))
    inputs = [random_weight((batch, 400), seed=batch) for batch in (3, 70, 5, 90)] * 2
    with running(CSR_MM, isa):
        expected = [CSR_MM.bind(packed)(x, None) for x in inputs]
        for _ in range(5):
            multiply = CSR_MM.bind(packed)
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda x, multiply=multiply: multiply(x, None), inputs))
            assert all(same_bits(a, b) for a, b in zip(found, expected))


@every_isa
def test_a_zero_that_is_kept_meets_what_is_not_finite(isa):
    """A column that two rows share is loaded once, and neither row may see it where only the other keeps it."""
    keep = torch.zeros(4, 80, dtype=torch.bool)
    keep[0, 5] = keep[1, 5] = keep[2, 7] = keep[3, 9] = True
    keep[:, 40:] = True
    packed = CSR.pack(random_weight((4, 80)), Mask(keep))
    x = random_weight((70, 80))
    x[:, 7] = float("inf")
    with running(CSR_MM, isa):
        y = CSR_MM.bind(packed)(x, None)
    assert y[:, [0, 1, 3]].isfinite().all()
    assert y[:, 2].isinf().all()
