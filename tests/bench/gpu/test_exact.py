"""The rule by which results on a GPU are judged."""

import pytest
import torch

from sparsekit.bench.gpu.exact import Exact, poisoned, rounds_once
from sparsekit.errors import KernelError

TERMS = 4096


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float32], ids=str)
def operands(request):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator).to(request.param) for shape in ((8, TERMS), (TERMS, 16)))


def good(a, b):
    return (a.float() @ b.float()).to(a.dtype)


def test_what_is_summed_up_in_float32_and_rounded_once_is_right(operands):
    Exact.product(*operands).expect("k", good(*operands))


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: torch.zeros_like(good(a, b)),
        lambda a, b: good(a, b).index_fill(1, torch.tensor([3]), float("nan")),
        lambda a, b: good(a[:, :-16], b[:-16]),
        lambda a, b: good(a, b.roll(1, 1)),
        lambda a, b: good(a, b) * 1.05,
    ],
    ids=["zeros", "NaN", "a step less", "another column", "5 % more"],
)
def test_what_is_wrong_is_found(operands, wrong, lenient):
    with pytest.raises(KernelError, match=r"k: \d+ of 128 results are wrong, by up to"):
        Exact.product(*operands).expect("k", wrong(*operands), lenient=lenient)


def test_rounded_partial_sums_are_for_other_libraries_only():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).bfloat16() for shape in ((8, TERMS), (TERMS, 16)))
    halves = good(a[:, ::2], b[::2]) + good(a[:, 1::2], b[1::2])
    exact = Exact.product(a, b)
    exact.expect("k", halves, lenient=True)
    with pytest.raises(KernelError):
        exact.expect("k", halves)
    assert [rounds_once(name) for name in ("nm_mm_cuda", "nm_mm_cusparselt")] == [True, False]


def test_another_shape_is_said(operands):
    with pytest.raises(KernelError, match=r"expected a result of \(8, 16\), got \(16, 8\)"):
        Exact.product(*operands).expect("k", good(*operands).T)


def test_poisoned_memory_is_no_number_and_the_setting_ends():
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned():
        assert torch.empty(5).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before
