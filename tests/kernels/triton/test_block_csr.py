"""Block CSR in Triton: products against float64, and what the compiler makes of it."""

import pytest
import torch
import torch.nn.functional as F

from sparsekit.formats import BlockCSR
from sparsekit.kernels import Problem
from sparsekit.kernels.activation import APPLY
from sparsekit.kernels.triton.block_csr import BLOCK_CSR_MM, launches
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands
from sparsekit.mask import Mask
from sparsekit.patterns import Block
from tests.kernels.triton.compiled import assert_fits, compile_ahead, count
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight


def packed_of(shape, sides, dtype, device, sparsity=0.5):
    mask, weight = random_mask(shape, Block(*sides), sparsity), random_weight(shape, dtype)
    packed = BlockCSR.pack(weight.to(device), Mask(mask.keep.to(device), mask.pattern))
    return packed, (weight * mask.keep).to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("sides", "batch"), [((16, 16), 1), ((32, 16), 17), ((16, 64), 130)])
def test_multiplies(sides, batch, dtype, device):
    packed, weight = packed_of((70, 90), sides, dtype, device)
    assert BLOCK_CSR_MM.refuses(Problem(packed, batch)) is None
    x, bias = random_weight((batch, 90), dtype, 1).to(device), random_weight((70,), dtype, 2).to(device)
    assert_product(BLOCK_CSR_MM.bind(packed)(x, bias), x, weight, bias)


@pytest.mark.parametrize("activation", BLOCK_CSR_MM.activations)
def test_applies_activations(activation, device):
    packed, weight = packed_of((32, 32), (16, 16), torch.float32, device)
    x = random_weight((4, 32), torch.float32, 1).to(device)
    y = BLOCK_CSR_MM.bind(packed, activation)(x, None)
    torch.testing.assert_close(y, APPLY[activation](F.linear(x, weight)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles for GPUs that are not there")
def test_compiles():
    cases = []
    for capability in (80, 90):
        packed, _ = packed_of((128, 128), (64, 64), torch.bfloat16, "cpu")
        x = torch.randn(128, 128).bfloat16()
        cases.append(("64", capability, launches(packed, Operands(x, None, torch.empty_like(x)), Tile(128, 64, 64))))
    for found in compile_ahead(cases):
        assert_fits(found)
        assert bool(count(found, "HGMMA")) == (found["capability"] == 90)
