"""The gradients of block CSR in Triton against float64 and against autograd of the dense product."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sparsekit.formats import BlockCSR, positions
from sparsekit.kernels import GRADIENT_KERNELS, Problem
from sparsekit.kernels.triton.block_csr_grad import BLOCK_CSR_GRADIENTS, sampling
from sparsekit.kernels.triton.tile import Tile
from sparsekit.ops.linear import linear
from tests.kernels.triton.blocks import long_offsets, packed_of, uneven
from tests.numerics import assert_product, assert_within, bound_of
from tests.weights import random_weight, same_bits


def assert_sampled(values, packed, grad, x):
    """Assert that ``values`` is ``grad.T @ x`` at the stored weights and exactly 0 in padding."""
    places = positions(packed)["values"].flatten()
    inside = places >= 0
    exact, scale = grad.double().T @ x.double(), grad.double().abs().T @ x.double().abs()
    bound = bound_of(scale, len(x), values.dtype).flatten()[places[inside]]
    assert_within(values.flatten()[inside], exact.flatten()[places[inside]], bound)
    assert not torch.count_nonzero(values.flatten()[~inside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("sides", "batch"), [((16, 16), 1), ((32, 16), 33), ((16, 64), 130), ((64, 32), 7), ((128, 128), 16)]
)
def test_gradients(sides, batch, dtype, device):
    packed, weight = packed_of((70, 90), sides, dtype, device)
    assert BLOCK_CSR_GRADIENTS.refuses(Problem(packed, batch)) is None
    grad, x = random_weight((batch, 70), dtype, 1).to(device), random_weight((batch, 90), dtype, 2).to(device)
    gradients = BLOCK_CSR_GRADIENTS.bind(packed, {})
    assert_product(gradients.of_x(grad), grad, weight.T)
    assert_sampled(gradients.of_part(grad, x, "values"), packed, grad, x)


TILES = (Tile(32, 16, 16), Tile(16, 32, 32, splits=2), Tile(32, 32, 64), Tile(16, 32, 64, splits=4), Tile(64, 16, 128))


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles_change_no_gradient(tile, device):
    packed, _ = uneven((70, 100), (32, 32), torch.float32, device)
    grad, x = random_weight((40, 70), seed=1).to(device), random_weight((40, 100), seed=2).to(device)
    found = []
    for _ in range(2):
        values = torch.empty_like(packed.values)
        for each in sampling(packed, {}, (grad, x), values, tile):
            each.run()
        found.append(values)
    assert_sampled(values, packed, grad, x)
    assert same_bits(*found)


def test_operands_may_have_any_strides(device):
    packed, weight = packed_of((48, 64), (16, 16), torch.float32, device)
    gradients = BLOCK_CSR_GRADIENTS.bind(long_offsets(packed), {})
    x = random_weight((20, 100), seed=1).to(device)[:, 5:69]
    for grad in (random_weight((20, 60), seed=2).to(device)[:, 1:49], random_weight((48, 20), seed=3).to(device).T):
        assert_product(gradients.of_x(grad), grad, weight.T)
        assert_sampled(gradients.of_part(grad, x, "values"), packed, grad, x)


def test_padding_gets_no_gradient_even_from_infinity(device):
    packed, _ = packed_of((21, 19), (16, 16), torch.float32, device, 0.0)
    grad, x = torch.full((5, 21), torch.inf, device=device), torch.ones(5, 19, device=device)
    with np.errstate(invalid="ignore"):
        values = BLOCK_CSR_GRADIENTS.bind(packed, {}).of_part(grad, x, "values")
    padding = positions(packed)["values"] < 0
    assert torch.equal(values, torch.where(padding, 0.0, torch.inf))


def test_no_blocks_at_all(device):
    packed, _ = packed_of((48, 64), (16, 16), torch.float32, device, 1.0)
    gradients = BLOCK_CSR_GRADIENTS.bind(packed, {})
    grad, x = random_weight((9, 48)).to(device), random_weight((9, 64)).to(device)
    assert torch.equal(gradients.of_x(grad), torch.zeros_like(x))
    assert gradients.of_part(grad, x, "values").shape == (0, 16, 16)


def test_places_are_found_once_while_values_change(device, monkeypatch):
    packed, weight = packed_of((48, 64), (16, 16), torch.float32, device)
    places, grad = {}, random_weight((9, 48)).to(device)
    x = random_weight((9, 64)).to(device)
    gradients = BLOCK_CSR_GRADIENTS.bind(packed, places)
    gradients.of_x(grad), gradients.of_part(grad, x, "values")
    kept = dict(places)
    twice = packed.from_parts({**packed.tensors(), "values": 2 * packed.values}, packed.integers())
    gradients = BLOCK_CSR_GRADIENTS.bind(twice, places)
    assert_product(gradients.of_x(grad), grad, 2 * weight.T)
    gradients.of_part(grad, x, "values")
    assert all(places[name] is tensor for name, tensor in kept.items())
    assert places.keys() == kept.keys()


def test_autograd_of_the_operator(device, monkeypatch):
    """Of second order too: the derivatives of the gradients are products by the same kernels."""
    packed, _ = uneven((40, 50), (16, 16), torch.float32, device)
    assert next(k for k in GRADIENT_KERNELS if k.format is BlockCSR) is BLOCK_CSR_GRADIENTS
    values = packed.values.clone().requires_grad_()
    trained = packed.from_parts({**packed.tensors(), "values": values}, packed.integers())
    x, bias = random_weight((6, 50), seed=1).to(device), random_weight((40,), seed=2).to(device)
    leaves = (x.requires_grad_(), bias.requires_grad_(), values)
    ours = torch.autograd.grad(linear(x, trained, bias).pow(3).sum(), leaves, create_graph=True)
    dense = [leaf.detach().double().requires_grad_() for leaf in leaves]
    matrix = packed.from_parts({**packed.tensors(), "values": dense[2]}, packed.integers()).unpack()
    theirs = torch.autograd.grad(F.linear(dense[0], matrix, dense[1]).pow(3).sum(), dense, create_graph=True)
    compare(ours, theirs)
    again = torch.autograd.grad(sum(g.pow(2).sum() for g in ours), leaves)
    compare(again, torch.autograd.grad(sum(g.pow(2).sum() for g in theirs), dense))


def compare(ours, theirs):
    for found, exact in zip(ours, theirs):
        assert (found.double() - exact).norm() <= 1e-5 * exact.norm()


def test_parts_are_added_up_by_a_program_of_their_own(device):
    packed, _ = packed_of((32, 64), (16, 16), torch.float32, device, 0.0)
    grad, x = torch.ones(64, 32, device=device), torch.ones(64, 64, device=device)
    one, two = (sampling(packed, {}, (grad, x), packed.values, Tile(16, 16, 16, splits=n)) for n in (1, 2))
    assert [each.program for each in one] == ["block_csr_grad.sample"]
    assert [each.program for each in two] == ["block_csr_grad.sample", "partial.add"]
    assert two[0].grid == (2 * one[0].grid[0],)
