import pytest
import torch

from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning import measure as module
from sparsekit.planning.jobs import EAGER, LinearJob
from sparsekit.planning.measure import BUDGET_S, FIRST_LOOK_S, measure
from tests.weights import random_mask, random_weight


def job(sparsity=0.5, batch=3, others=0, pattern=Unstructured(), dtype=torch.float32, bias=None):  # noqa: B008
    return LinearJob(random_weight((16, 16), dtype), random_mask((16, 16), pattern, sparsity), bias, others, batch)


@pytest.fixture
def looks(monkeypatch):
    """Made-up times in the place of the clock; records what was timed, for how long, and after what."""
    times, seen = {}, []

    def fastest(candidates, budget_s, before):
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
