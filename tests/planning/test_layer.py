import pytest
import torch

from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from sparsekit.planning.layer import GAIN, decide

EAGER, ONEDNN, CSR, MV, BITS = (
    "dense_linear_reference",
    "dense_linear_onednn",
    "csr_mm_native",
    "csr_mv_native",
    "bitmask_mv_native",
)


def mask(sparsity=0.5):
    return Mask(Unstructured().select(torch.arange(64.0).reshape(8, 8), sparsity))


def decided(times, calls=None, sparsity=0.5):
    calls = calls or {4: 1}
    return decide("layer", mask(sparsity), calls, times if isinstance(next(iter(times)), int) else {4: times})


def test_sparse_has_to_beat_the_best_dense_by_the_gain():
    won = decided({EAGER: 20.0, ONEDNN: GAIN, CSR: 1.0})
    assert won.sparse
    assert won.chosen.kernels == {4: CSR}
    assert won.reason == ""
    lost = decided({EAGER: 20.0, ONEDNN: GAIN - 1e-6, CSR: 1.0})
    assert not lost.sparse
    assert lost.reason == "csr_mm_native runs at 1.05x dense, 1.05x is needed"


def test_prepacked_dense_is_chosen_where_it_beats_eager_by_the_gain():
    assert decided({EAGER: GAIN, ONEDNN: 1.0}).chosen.kernels == {4: ONEDNN}
    assert decided({EAGER: GAIN - 1e-6, ONEDNN: 1.0}).chosen is None


def test_calls_of_several_batch_sizes_are_weighed():
    times = {1: {EAGER: 10.0, MV: 1.0, BITS: 0.5}, 64: {EAGER: 10.0, CSR: 9.0}}
    plan = decided(times, {1: 3, 64: 1})
    assert plan.chosen.format == "csr"
    assert plan.chosen.kernels == {1: MV, 64: CSR}
    assert plan.chosen.seconds == pytest.approx(3 * 1.0 + 9.0)
    assert plan.eager == pytest.approx(40.0)


def test_a_format_that_cannot_run_every_batch_size_is_out():
    plan = decided({1: {EAGER: 10.0, BITS: 0.5}, 64: {EAGER: 10.0}}, {1: 1, 64: 1})
    assert plan.chosen is None
    assert plan.reason == "no sparse kernel runs every batch size"


def test_without_zeros_there_is_nothing_to_choose():
    assert decided({EAGER: 1.0, ONEDNN: 1.0}, sparsity=0.0).reason == "no zeros"


def test_json_is_in_microseconds():
    found = decided({EAGER: 20e-6, ONEDNN: 10e-6, CSR: 1e-6}, {4: 2}).as_json()
    assert (found["eager_us"], found["dense_us"], found["chosen_us"]) == pytest.approx((40, 20, 2))
    assert found["kernels"] == {"4": CSR}
    assert found["shape"] == [8, 8]
