import threading
import time

import pytest
import torch

from sparsekit.formats import Dense
from sparsekit.kernels import Problem
from sparsekit.kernels.prepacked import PREPACKED_KERNELS, _bind
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


def test_packs_once_however_many_threads_call_first():
    prepared, ready = [], threading.Barrier(4)

    def prepare(weight, batch):
        prepared.append(batch)
        time.sleep(0.05)  # long enough for every thread to come by
        return lambda x, bias: x @ weight.T

    multiply, x = _bind(packed(), prepare), torch.randn(9, 20)

    def call():
        ready.wait()
        multiply(x, None)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prepared == [9]


@every_kernel
def test_computes_in_the_weights_dtype_under_autocast_and_after_inference_mode(kernel):
    weight, x, bias = packed(), torch.randn(5, 20), torch.randn(12)
    multiply = kernel.bind(weight)
    with torch.inference_mode():
        multiply(x, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_product(multiply(x, bias), x, weight.values, bias)
    assert_product(multiply(torch._neg_view(x), bias), -x, weight.values, bias)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch):
    onednn = PREPACKED_KERNELS[0]
    problem = Problem(packed(dtype=torch.bfloat16), 4)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert str(onednn.refuses(problem)) == "it does not run bfloat16"
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert onednn.refuses(problem) is None
