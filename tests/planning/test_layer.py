import pytest
import torch

from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from sparsekit.planning.jobs import AS_IS
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
    return decide("layer", mask(sparsity), calls, {4: times} if isinstance(next(iter(times)), str) else times)


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


def test_a_format_that_cannot_run_every_size_of_input_is_out():
    plan = decided({1: {EAGER: 10.0, BITS: 0.5}, 64: {EAGER: 10.0}}, {1: 1, 64: 1})
    assert plan.chosen is None
    assert plan.reason == "no sparse kernel runs every size of input"


def test_without_zeros_there_is_nothing_to_choose():
    assert decided({EAGER: 1.0, ONEDNN: 1.0}, sparsity=0.0).reason == "no zeros"


def test_json_is_in_microseconds():
    found = decided({EAGER: 20e-6, ONEDNN: 10e-6, CSR: 1e-6}, {4: 2}).as_json()
    assert (found["eager_us"], found["dense_us"], found["chosen_us"]) == pytest.approx((40, 20, 2))
    assert found["kernels"] == {"4": CSR}
    assert found["shape"] == [8, 8]


CONV_CSR, CONV_ONEDNN, CONV_REFERENCE = "csr_conv_native", "dense_conv_onednn", "dense_conv_reference"
SIZE, OTHER = (2, 5, 6), (1, 7, 7)


def test_a_convolution_is_compared_with_itself_as_it_is_and_with_the_best_dense():
    times = {AS_IS: 4.0, CONV_REFERENCE: 3.0, CONV_ONEDNN: 2.0, CONV_CSR: 1.0}
    won = decided({SIZE: times, OTHER: {**times, CONV_REFERENCE: 1.5}}, {SIZE: 3, OTHER: 1})
    assert (won.chosen.format, won.chosen.kernels) == ("csr", {SIZE: CONV_CSR, OTHER: CONV_CSR})
    assert (won.eager, won.best_dense, won.seconds) == (16.0, 7.5, 4.0)
    assert won.dense.kernels == {SIZE: CONV_ONEDNN, OTHER: CONV_REFERENCE}


def test_a_convolution_as_it_is_may_be_the_best_dense():
    lost = decided({SIZE: {AS_IS: 1.0, CONV_REFERENCE: 3.0, CONV_CSR: 1.0}}, {SIZE: 1})
    assert (lost.chosen, lost.best_dense) == (None, 1.0)
    assert lost.reason == "csr_conv_native runs at 1.00x dense, 1.05x is needed"


def test_dense_with_all_that_is_fused_may_gain():
    found = decided({SIZE: {AS_IS: 2.0, CONV_REFERENCE: 1.0, CONV_CSR: 3.0}}, {SIZE: 1})
    assert (found.chosen.format, found.chosen.kernels) == ("dense", {SIZE: CONV_REFERENCE})


def test_sizes_of_images_in_json():
    found = decided({SIZE: {AS_IS: 4e-6, CONV_ONEDNN: 2e-6, CONV_CSR: 1e-6}}, {SIZE: 2}).as_json()
    assert (found["calls"], found["kernels"]) == ({"2x5x6": 2}, {"2x5x6": CONV_CSR})
    assert (found["eager_us"], found["dense_us"], found["chosen_us"]) == pytest.approx((8, 4, 2))
    assert found["fused"] == []
