"""Speed of each kernel under pytest-benchmark, to compare one commit with another: ``pytest benchmarks``."""

from functools import cache

import pytest
import torch

from sparsekit.formats import FORMATS, QUANTIZED_FORMATS, Dense
from sparsekit.kernels import KERNELS, REFERENCE_KERNELS, Problem
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured

SIZES = ((1, 2048, 2048), (128, 1024, 4096))
MASKS = (
    (Unstructured(), 0.5, torch.float32),
    (Unstructured(), 0.9, torch.float32),
    (Block(16, 16), 0.9, torch.float32),
    (Block(16, 1), 0.9, torch.float32),
    (NM(2, 4), None, torch.float32),
    (Block(32, 32), 0.9, torch.bfloat16),
    (Block(16, 2), 0.9, torch.bfloat16),
)


@cache
def pruned(rows, columns, pattern, sparsity):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return weight, Mask(pattern.select(weight.abs(), sparsity), pattern)


def cases():
    for kernel in KERNELS:
        if kernel in REFERENCE_KERNELS and kernel.format is not Dense:
            continue
        for batch, columns, rows in SIZES:
            for pattern, sparsity, dtype in MASKS:
                weight, mask = pruned(rows, columns, pattern, sparsity)
                if kernel.format.accepts(mask) is None:
                    name = f"{kernel.name}-{batch}-{pattern}-{sparsity}-{str(dtype).removeprefix('torch.')}"
                    yield pytest.param(kernel, batch, weight.to(dtype), mask, id=name)


@pytest.mark.parametrize(("kernel", "batch", "weight", "mask"), list(cases()))
def test_multiply(benchmark, kernel, batch, weight, mask):
    packed = kernel.format.pack(weight, mask)
    refusal = kernel.refuses(Problem(packed, batch, torch.get_num_threads()))
    if refusal is not None:
        pytest.skip(str(refusal))
    multiply = kernel.bind(packed)
    benchmark(multiply, torch.randn(batch, weight.shape[1]).to(weight.dtype), None)


def test_every_format_is_measured():
    assert {kernel.format for kernel in KERNELS} == {*FORMATS, *QUANTIZED_FORMATS}
