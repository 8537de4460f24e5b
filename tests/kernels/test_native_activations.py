"""Activations that the native kernels apply themselves, on every instruction set that is built and runs here."""

import pytest
import torch

from sparsekit.formats import CSR, Bitmask, BlockCSR
from sparsekit.kernels import KERNELS, native
from sparsekit.kernels.activation import ACTIVATIONS, APPLY
from sparsekit.kernels.base import Problem, choose
from sparsekit.kernels.native import NATIVE_KERNELS
from sparsekit.mask import Mask
from sparsekit.patterns import Block, Unstructured
from tests.weights import random_mask, random_weight

PATTERNS = {CSR: Unstructured(), Bitmask: Unstructured(), BlockCSR: Block(4, 4)}
ISAS = native.describe()["built"].get("activation", [])


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_ISA", request.param)
    if native.describe()["in_use"]["activation"] != request.param:
        pytest.skip(f"this processor has no {request.param}")
    return request.param


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@pytest.mark.parametrize("kernel", NATIVE_KERNELS, ids=lambda k: k.name)
def test_it_is_that_of_torch_on_all_outputs_and_no_others(isa, kernel, activation):
    assert set(kernel.activations) == set(ACTIVATIONS)
    weight, mask = random_weight((75, 40)), random_mask((75, 40), PATTERNS[kernel.format], 0.5)
    packed = kernel.format.pack(weight, mask)
    ran = 0
    for batch in (1, 3, 17, 70):
        if kernel.refuses(Problem(packed, batch)) is not None:
            continue
        x, bias = random_weight((batch, 40), seed=1), random_weight((75,), seed=2)
        before = x.double() @ (weight * mask.keep).double().T + bias
        # the error of the product, and that of the activation: 2 units of its own formula, 1.5e-7 of gelu's
        bound = 2e-6 * (x.abs().double() @ weight.abs().double().T + bias.abs())
        error = (kernel.bind(packed, activation)(x, bias).double() - APPLY[activation](before)).abs()
        assert bool((error <= bound).all())
        ran += 1
    assert ran


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_values_far_out_and_special_ones(isa, activation):
    kernel = next(k for k in NATIVE_KERNELS if k.name == "csr_mm_native")
    points = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([1e4, -1e4, 3e38, -3e38, float("inf"), 0.0])])
    packed = CSR.pack(torch.zeros(len(points), 8), random_mask((len(points), 8), Unstructured(), 1 - 1 / 8))
    y = kernel.bind(packed, activation)(torch.ones(2, 8), points)[1]
    wanted = APPLY[activation](points.double())
    assert bool(((y.double() - wanted).abs() <= 3e-7 * points.abs().clamp(max=1e4) + 1e-30)[:-3].all())
    assert y[-2] == float("inf")
    assert y[-1] == 0.0
    special = torch.tensor([float("nan"), float("-inf")] * 8)
    packed = CSR.pack(torch.zeros(16, 8), random_mask((16, 8), Unstructured(), 1 - 1 / 8))
    y = kernel.bind(packed, activation)(torch.ones(2, 8), special)[0]
    assert bool(y[0::2].isnan().all())
    assert bool((y[1::2].abs() < 1e-30).all())


def test_gelu_in_bfloat16_is_as_near_as_bfloat16_can_say_however_small_it_is(isa):
    numbers = torch.arange(0x0000, 0x4180, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)  # 0 up to 16
    x = torch.cat([numbers, -numbers]).reshape(-1, 16)
    packed = BlockCSR.pack(torch.eye(16).bfloat16(), Mask(torch.ones(16, 16, dtype=torch.bool), Block(16, 16)))
    kernel = choose(Problem(packed, len(x)), KERNELS)
    assert kernel.name.startswith("block_csr_mm_native")
    y = kernel.bind_with(packed, "gelu")(x, None).double()
    exact = x.double() * torch.special.erfc(-x.double() / 2**0.5) / 2
    assert ((y - exact).abs() <= 1.13 * 2**-8 * exact.abs() + 1e-36).all()
