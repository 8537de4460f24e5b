"""The copies that kernels keep share huge pages: they live and die without touching each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sparsekit.formats import Bitmask
from sparsekit.kernels.native.extension import MODULE, WHY_NOT
from sparsekit.patterns import Unstructured
from tests.kernels.test_native import BITMASK_MV, CSR_MV
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

pytestmark = pytest.mark.skipif(MODULE is None, reason=WHY_NOT)


def bound(kernel, shape, seed):
    """A function that multiplies by a weight and judges the result."""
    packed = kernel.format.pack(random_weight(shape, seed=seed), random_mask(shape, Unstructured(), 0.5, seed))
    multiply, weight, x = kernel.bind(packed), packed.unpack(), random_weight((1, shape[1]), seed=seed)
    return lambda: assert_product(multiply(x, None), x, weight, None)


def test_a_copy_outlives_its_neighbours():
    made = [bound((BITMASK_MV, CSR_MV)[i % 2], (100 + i, 700), i) for i in range(24)]
    kept = made[1::3]
    del made
    for check in kept:
        check()
    more = [bound(BITMASK_MV, (150, 500), i) for i in range(8)]
    for check in (*kept, *more):
        check()


def test_threads_make_and_drop_copies():
    def make_and_drop(seed):
        first, second = bound(BITMASK_MV, (64, 300), seed), bound(CSR_MV, (90, 200), seed)
        first()
        del first
        second()
        return second

    with ThreadPoolExecutor(4) as pool:
        for check in list(pool.map(make_and_drop, range(40))):
            check()


def test_a_copy_larger_than_what_is_asked_for_at_a_time():
    weight = torch.ones(2200, 4096)
    packed = Bitmask.pack(weight, random_mask((2200, 4096), Unstructured(), 0.0, 0))
    small = bound(CSR_MV, (50, 60), 1)
    x = random_weight((1, 4096))
    assert_product(BITMASK_MV.bind(packed)(x, None), x, weight, None)
    small()
