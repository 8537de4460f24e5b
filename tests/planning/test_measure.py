from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsekit.errors import SparsekitWarning
from sparsekit.kernels import Convolution
from sparsekit.mask import Mask
from sparsekit.nn.border import Border
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning import measure as module
from sparsekit.planning.jobs import AS_IS, EAGER, MEMORY_FORMATS, ConvJob, LinearJob
from sparsekit.planning.measure import BUDGET_S, FIRST_LOOK_S, measure
from tests.numerics import assert_convolution
from tests.weights import random_mask, random_weight


def job(sparsity=0.5, batch=3, others=0, pattern=Unstructured(), dtype=torch.float32, bias=None):  # noqa: B008
    return LinearJob(random_weight((16, 16), dtype), random_mask((16, 16), pattern, sparsity), bias, others, batch)


@pytest.fixture
def looks(monkeypatch):
    """Made-up times in the place of the clock; records what was timed, for how long, and after what."""
    times, seen = {}, []

    def fastest(candidates, budget_s, before, clock):
        for call in candidates.values():
            assert call().shape == (3, 16)
        seen.append((set(candidates), budget_s, before))
        return {name: times.get(name, 100.0) for name in candidates}

    monkeypatch.setattr(module, "fastest", fastest)
    return times, seen


def test_contenders_and_eager_are_measured_at_length(looks):
    times, seen = looks
    times.update({"csr_mv_native": 1.0, "csr_mm_native": 1.5, "bitmask_mv_native": 1.6, EAGER: 9.0})
    found = measure(job())
    (everything, first, _), (contenders, length, _) = seen
    assert (first, length) == (FIRST_LOOK_S, BUDGET_S)
    assert contenders == {"csr_mv_native", "csr_mm_native", EAGER}
    assert set(found) == everything
    assert everything > contenders


@pytest.mark.parametrize("others", [0, 1000])
def test_the_weight_is_cold_where_the_model_reads_more_between_two_calls(looks, others):
    _, seen = looks
    measure(job(others=others))
    for _, _, before in seen:
        assert (before is not None) == (others > 0)
        if before is not None:
            before()


def test_without_zeros_only_dense_ways_are_measured(looks):
    _, seen = looks
    measure(job(0.0))
    assert all(name.startswith("dense_") for name in seen[0][0])
    assert EAGER in seen[0][0]


def test_other_dtypes_are_measured_in_their_own(looks):
    assert EAGER in measure(job(dtype=torch.bfloat16, bias=random_weight((16,), torch.bfloat16)))


def test_the_key_tells_apart_what_runs_at_another_speed():
    bias = torch.zeros(16)
    keys = [
        job().key,
        job(batch=4).key,
        job(0.6).key,
        job(0.0).key,
        job(1 / 256).key,
        job(0.98).key,
        job(0.995).key,
        job(1.0).key,
        job(bias=bias).key,
        job(others=10).key,
        job(dtype=torch.bfloat16).key,
        job(pattern=Block(4, 4)).key,
        job(pattern=NM(2, 4)).key,
        LinearJob(random_weight((16, 32)), Mask(torch.ones(16, 32).bool()), None, 0, 3).key,
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_follows_the_threads():
    before, keys = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            keys.add(job().key)
    finally:
        torch.set_num_threads(before)
    assert len(keys) == 2


def test_sparsities_that_are_nearly_the_same_share_a_key():
    weight, ones = random_weight((100, 100)), torch.ones(10_000).bool()

    def key(zeros):
        keep = ones.clone()
        keep[:zeros] = False
        return LinearJob(weight, Mask(keep.view(100, 100)), None, 0, 3).key

    assert key(9000) == key(9010)
    assert key(1) != key(0)


def conv_job(order="contiguous", mode="zeros", activation="relu", sparsity=0.8, dtype=torch.float32):
    """A convolution with a ReLU behind it."""
    conv = nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode=mode, dtype=dtype)
    conv.weight.data = random_weight((6, 4, 3, 3), dtype)
    mask = (
        Mask(Unstructured().select(torch.rand(6, 4, 3, 3), sparsity)) if sparsity else Mask(torch.ones(6, 4, 3, 3) > 0)
    )
    conv.weight.data.masked_fill_(~mask.keep, 0.0)
    border = Border(Convolution.of(conv, activation), mode)
    dense = (conv, nn.ReLU(inplace=True)) if activation == "relu" else (conv,)
    return ConvJob(conv.weight.detach(), mask, conv.bias.detach(), 0, border, (2, 7, 8), order, dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("order", MEMORY_FORMATS)
def test_every_way_to_convolve_computes_the_same_in_the_order_that_is_asked(order, mode, dtype):
    job = conv_job(order, mode, dtype=dtype)
    before = torch.get_rng_state()
    x = job.example()
    assert (x.shape, x.dtype) == ((2, 4, 7, 8), dtype)
    assert x.is_contiguous(memory_format=MEMORY_FORMATS[order])
    calls = job.calls(x)
    assert {AS_IS, "dense_conv_reference", "dense_conv_channels_last"} < set(calls)
    assert ("csr_conv_native" in calls) == (dtype is torch.float32)
    for call in calls.values():
        y = call()
        assert y.is_contiguous(memory_format=MEMORY_FORMATS[order])
        assert_convolution(y, job.border.around(x), job.weight, job.border.inner, job.bias)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_layers_as_they_are_stay_as_they_are():
    job = conv_job("channels_last")
    conv = job.dense[0].train()
    job.calls(job.example())[AS_IS]()
    assert conv.weight.is_contiguous()
    assert conv.training


def test_without_zeros_no_sparse_convolution_is_measured():
    assert all(
        name.startswith("dense_") or name == AS_IS for name in conv_job(sparsity=0.0).calls(conv_job().example())
    )


def test_a_convolution_as_it_is_is_measured_at_length(monkeypatch):
    seen = []

    def fastest(candidates, budget_s, before, clock):
        seen.append(set(candidates))
        return {name: 1.0 if name == "csr_conv_native" else 100.0 for name in candidates}

    monkeypatch.setattr(module, "fastest", fastest)
    assert set(measure(conv_job())) == seen[0]
    assert seen[1] == {"csr_conv_native", AS_IS}


def other(job, **changes):
    """The job with another convolution of the same weight."""
    return replace(job, border=Border(replace(job.border.convolution, **changes), job.border.mode))


def test_the_key_of_a_convolution_tells_apart_what_runs_at_another_speed():
    job, double = conv_job(), conv_job(dtype=torch.float64)
    norm = nn.BatchNorm2d(6)
    keys = [
        job.key,
        double.key,
        conv_job("channels_last").key,
        conv_job(mode="reflect").key,
        conv_job(activation="silu").key,
        conv_job(sparsity=0.9).key,
        conv_job(sparsity=0.0).key,
        replace(job, size=(1, 7, 8)).key,
        replace(job, size=(2, 8, 7)).key,
        replace(job, bias=None).key,
        replace(job, others=1000).key,
        replace(job, dense=(job.dense[0], norm, job.dense[1])).key,
        replace(job, dense=job.dense[:1]).key,
        replace(job, mask=Mask(torch.zeros(6, 4, 3, 3) > 0, Block(1, 4))).key,
        other(job, stride=(2, 1)).key,
        other(job, padding=(1, 2, 2, 2)).key,
        other(job, dilation=(1, 2)).key,
        replace(job, weight=job.weight[:, :2]).key,
        LinearJob(job.weight.flatten(1), Mask(job.mask.keep.flatten(1)), job.bias, 0, 2).key,
    ]
    grouped = Border(Convolution(8, (3, 3), groups=2), "zeros")
    keys += [replace(job, border=grouped).key, replace(job, border=Border(replace(grouped.convolution, groups=4))).key]
    assert len(set(keys)) == len(keys)
    assert conv_job().key == job.key


def test_a_kernel_that_fails_is_left_out_and_named(looks, monkeypatch):
    calls = job().calls(job().example())

    def fail():
        raise RuntimeError("out of shared memory\nand a long trace")

    monkeypatch.setattr(LinearJob, "calls", lambda self, x: {**calls, "csr_mm_native": fail})
    with pytest.warns(SparsekitWarning, match="^csr_mm_native is left out of the plan, .* out of shared memory$"):
        found = measure(job())
    assert "csr_mm_native" not in found
    assert EAGER in found
    monkeypatch.setattr(LinearJob, "calls", lambda self, x: {**calls, EAGER: fail})
    with pytest.raises(RuntimeError, match="out of shared memory"):
        measure(job())
