"""Every instruction set at the edges of what the native convolutions take, and what lies beyond them."""

import pytest
import torch

from sparsekit.kernels import Convolution, ConvProblem
from sparsekit.kernels.native import NATIVE_CONV_KERNELS, describe
from sparsekit.mask import Mask
from sparsekit.patterns import AllTaps, Block, KernelSlice, PerTap, Unstructured
from tests.numerics import assert_convolution
from tests.weights import random_weight

CSR_CONV, BLOCK_CONV = NATIVE_CONV_KERNELS
BF16 = "avx512bf16"
pytestmark = pytest.mark.skipif(bool(describe()["reason"]), reason="there are no native kernels")


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request, monkeypatch):
    use(request.param, monkeypatch, "conv")


def use(isa, monkeypatch, stem):
    """Let kernels of ``stem`` that are bound from now on run with ``isa``; skip where it is not there."""
    monkeypatch.setenv("SPARSEKIT_ISA", isa)
    if (in_use := describe()["in_use"][stem]) != isa:
        pytest.skip(f"{stem} runs as {in_use} here, not as {isa}")


def packed(pattern, convolution, outputs, dtype=torch.float32):
    """The kernel that is made for ``pattern``, its packed weight, and the same dense."""
    weight = random_weight(convolution.weight_shape(outputs), dtype)
    mask = Mask(pattern.select(weight.float().abs(), 0.8), pattern)
    kernel = CSR_CONV if isinstance(pattern, Unstructured) else BLOCK_CONV
    return kernel, kernel.format.pack(weight, mask), torch.where(mask.keep, weight, 0.0)


def run(pattern, convolution, size, outputs=6, dtype=torch.float32):
    """Check a result, or return why there is none."""
    kernel, stored, weight = packed(pattern, convolution, outputs, dtype)
    refusal = kernel.refuses(ConvProblem(stored, convolution, size))
    if refusal is None:
        x = random_weight((size[0], convolution.in_channels, *size[1:]), dtype, 3)
        bias = random_weight((outputs,), dtype, 4)
        assert_convolution(kernel.bind(stored, convolution)(x, bias), x, weight, convolution, bias)
    return refusal


EDGES = {
    "the largest kernel": (Convolution(2, (16, 16), padding=(8, 8, 8, 8)), (1, 20, 20)),
    "the tallest dilation": (Convolution(3, (3, 3), dilation=(60, 1)), (1, 125, 9)),
    "dilation that no stride divides": (Convolution(3, (5, 3), (3, 2), dilation=(7, 5)), (2, 40, 31)),
    "a stride beyond the kernel": (Convolution(4, (3, 2), (7, 9), (1, 0, 2, 1)), (1, 50, 50)),
    "many channels, wide dilation": (Convolution(700, (3, 3), dilation=(30, 1)), (1, 61, 4)),
    "columns narrower than a vector": (Convolution(5, (3, 3), padding=(1, 1, 1, 1)), (7, 9, 1)),
    "1x1 that keeps the number of pixels and not their places": (
        Convolution(3, (1, 1), (2, 2), (0, 0, 0, 2)),
        (1, 16, 1),
    ),
    "one pixel": (Convolution(33, (1, 1)), (3, 1, 1)),
    "one row": (Convolution(3, (1, 7), padding=(0, 0, 3, 3)), (2, 1, 100)),
    "padding beyond the image": (Convolution(2, (7, 7), padding=(6, 6, 6, 6)), (1, 1, 2)),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1), KernelSlice()], ids=str)
def test_edges_run_and_are_exact(isa, pattern, name):
    convolution, size = EDGES[name]
    assert run(pattern, convolution, size) is None


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("outputs", [1, 2, 3, 50, 97])
def test_whole_kernels_of_any_number_of_outputs(isa, step, outputs):
    convolution = Convolution(9, (3, 3), (step, step), (1, 1, 1, 1))
    assert run(KernelSlice(), convolution, (2, 17, 30), outputs) is None


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", BF16])
@pytest.mark.parametrize("pattern", [Block(2, 1), Block(7, 5), AllTaps(Block(16, 16)), PerTap(Block(4, 2))], ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_blocks_in_bfloat16(monkeypatch, isa, pattern, activation):
    use(isa, monkeypatch, "conv_bf16")
    for channels, kernel, step, size in ((33, 3, 1, (2, 9, 15)), (8, 1, 1, (1, 14, 14)), (5, 5, 3, (1, 30, 33))):
        convolution = Convolution(channels, (kernel, kernel), (step, step), (1, 1, 1, 1), activation=activation)
        assert run(pattern, convolution, size, 19, torch.bfloat16) is None


def test_single_outputs_in_bfloat16_are_refused():
    refusal = run(KernelSlice(), Convolution(4, (3, 3)), (1, 9, 9), dtype=torch.bfloat16)
    assert str(refusal) == "in bfloat16 it runs blocks of at least 2 rows, not of 1"


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (Convolution(2, (17, 1)), "it runs kernels up to 16 x 16, not (17, 1)"),
        (
            Convolution(2, (3, 3), dilation=(61, 1)),
            "it runs kernels that reach down less far than (3, 3) dilated by (61, 1)",
        ),
        (Convolution(4, (3, 3), groups=4), "in a depthwise convolution every output reads one channel"),
    ],
    ids=["tall", "dilated", "depthwise"],
)
def test_what_lies_beyond_is_refused_in_words(convolution, reason):
    refusal = run(Unstructured(), convolution, (1, 130, 130), 4)
    assert str(refusal).startswith(reason)


def test_one_bound_weight_serves_many_sizes():
    """More sizes than layouts are kept; each result stays right."""
    convolution = Convolution(3, (3, 3), (2, 1), (1, 0, 2, 1))
    kernel, stored, weight = packed(Unstructured(), convolution, 5)
    multiply = kernel.bind(stored, convolution)
    for high in (*range(3, 24), 3, 11):
        x = random_weight((1, 3, high, 2 * high), seed=high)
        assert_convolution(multiply(x, None), x, weight, convolution)


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1), KernelSlice()], ids=str)
@pytest.mark.parametrize("side", [1, 3])
def test_threads_share_out_everything(pattern, side):
    """Some outputs each, where planes are small; some images each, where there are many; or some strips each."""
    before = torch.get_num_threads()
    try:
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for channels, outputs, size in ((5, 900, (1, 14, 14)), (40, 70, (1, 30, 33)), (7, 66, (6, 15, 9))):
                assert run(pattern, Convolution(channels, (side, side)), size, outputs) is None
    finally:
        torch.set_num_threads(before)
