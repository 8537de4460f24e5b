import threading

import pytest
import torch

from sparsekit.formats import Dense
from sparsekit.kernels import Problem
from sparsekit.kernels.prepacked import PREPACKED_KERNELS
from tests.numerics import assert_product

every_kernel = pytest.mark.parametrize("kernel", PREPACKED_KERNELS, ids=lambda k: k.name)


def packed(rows=12, columns=20, dtype=torch.float32):
    torch.manual_seed(0)
    return Dense(rows=rows, columns=columns, values=torch.randn(rows, columns, dtype=dtype))


@every_kernel
@pytest.mark.parametrize("biased", [True, False])
def test_product_at_the_batch_it_was_packed_for_and_at_others(kernel, biased):
    weight = packed()
    bias = torch.randn(12) if biased else None
    assert kernel.refuses(Problem(weight, 64)) is None
    multiply = kernel.bind(weight)
    for batch in (64, 1, 7, 200, 64):
        x = torch.randn(batch, 40)[:, :20]
        assert_product(multiply(x, bias), x, weight.values, bias)


@every_kernel
def test_threads_that_call_first_pack_once_and_agree(kernel):
    weight, x = packed(64, 48), torch.randn(9, 48)
    multiply, found = kernel.bind(weight), []
    threads = [threading.Thread(target=lambda: found.append(multiply(x, None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for y in found:
        assert_product(y, x, weight.values)


@every_kernel
def test_refusals(kernel):
    assert str(kernel.refuses(Problem(packed(dtype=torch.float64), 4))) == "it does not run float64"
    assert "not empty" in str(kernel.refuses(Problem(packed(), 0)))
    assert "not empty" in str(kernel.refuses(Problem(packed(0, 20), 4)))
    meta = Dense(rows=2, columns=2, values=torch.empty(2, 2, device="meta"))
    assert str(kernel.refuses(Problem(meta, 4))) == "it runs on the CPU, not on meta"
