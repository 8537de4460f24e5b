"""The CUDA kernels against float64 where a GPU is at hand, on inputs that no earlier run has seen."""

from __future__ import annotations

import pytest
import torch

from sparsekit.formats import NMPacked
from sparsekit.kernels import Problem
from sparsekit.kernels.cuda import CUDA_KERNELS
from sparsekit.patterns import NM
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight, same_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SHAPES = ((16, 16), (1, 5), (128, 128), (133, 130), (200, 1022), (1000, 2048), (2048, 8192), (4096, 1025))
BATCHES = (1, 3, 8, 9, 33, 64, 65, 128, 130, 257, 1000)
every_kernel = pytest.mark.parametrize("kernel", CUDA_KERNELS, ids=lambda kernel: kernel.name)
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def drawn(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> NMPacked:
    mask = random_mask(shape, NM(2, 4), 0.1, seed)
    packed = NMPacked.pack(random_weight(shape, dtype, seed), mask)
    return packed.from_parts({name: part.cuda() for name, part in packed.tensors().items()}, packed.integers())


def tokens(batch: int, columns: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return random_weight((batch, columns), dtype, seed + 1).cuda()


def check(y: torch.Tensor, x: torch.Tensor, packed: NMPacked, bias: torch.Tensor | None) -> None:
    """Judge ``y``; what computes the exact product need not be deterministic, which cuBLAS would have to be told."""
    torch.use_deterministic_algorithms(False)
    try:
        assert_product(y, x, packed.unpack(), bias)
    finally:
        torch.use_deterministic_algorithms(True)


def skip_refused(kernel, packed, batch):
    refusal = kernel.refuses(Problem(packed, batch))
    if refusal is not None:
        pytest.skip(str(refusal))


@every_kernel
@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiplies(kernel, dtype, shape, record_property):
    seed = torch.seed() % 2**31
    record_property("seed", seed)
    packed, ran = drawn(shape, dtype, seed), 0
    for batch in BATCHES:
        if kernel.refuses(Problem(packed, batch)) is not None:
            continue
        x, bias = tokens(batch, shape[1], dtype, seed), tokens(1, shape[0], dtype, seed + 1)[0]
        multiply = kernel.bind(packed)
        for given in (bias, None):
            y = multiply(x, given)
            check(y, x, packed, given)
            assert same_bits(multiply(x, given).cpu(), y.cpu()), "results vary from run to run"
        ran += 1
    if not ran:
        skip_refused(kernel, packed, BATCHES[-1])


@every_kernel
@pytest.mark.parametrize("batch", [5, 70])
def test_reads_any_strides(kernel, batch):
    packed = drawn((160, 256), torch.float16, 1)
    skip_refused(kernel, packed, batch)
    multiply = kernel.bind(packed)
    wide, bias = tokens(batch, 520, torch.float16, 1), tokens(1, 320, torch.float16, 2)[0, ::2]
    for x in (wide[:, 3:259], wide[:, ::2][:, :256], wide[:, 8:264], tokens(256, batch, torch.float16, 3).T):
        check(multiply(x, bias), x, packed, bias)
    x = wide[:1, :256].expand(batch, 256)
    check(multiply(x, None), x, packed, None)


@every_kernel
@pytest.mark.parametrize("batch", [7, 300])
def test_runs_on_the_current_stream_and_in_a_graph(kernel, batch):
    packed = drawn((256, 4096), torch.bfloat16, 1)
    skip_refused(kernel, packed, batch)
    multiply, x = kernel.bind(packed), tokens(batch, 4096, torch.bfloat16, 1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        multiply(x, None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = multiply(x, None)
    x.copy_(tokens(batch, 4096, torch.bfloat16, 5))
    y.fill_(float("nan"))
    graph.replay()
    check(y, x, packed, None)
