"""Training a SparseLinear: its gradients and steps against those of the dense layer with a mask."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import sparsekit.kernels
from sparsekit.checkpoint import load, save
from sparsekit.errors import FormatError
from sparsekit.formats import CSR, Bitmask, BlockCSR, DeltaCSR, Dense, NMPacked
from sparsekit.mask import Mask
from sparsekit.nn import SparseLinear
from sparsekit.patterns import NM, Block, Unstructured
from tests.nn.test_linear import dense_layer, every_format
from tests.nn.test_state import assert_same_layer
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight, same_bits

PATTERN = {
    Dense: Unstructured(),
    CSR: Unstructured(),
    Bitmask: Unstructured(),
    NMPacked: NM(2, 4),
    BlockCSR: Block(4, 4),
    DeltaCSR: Unstructured(),
}


class Masked(nn.Module):
    """Autograd's way: the dense weight times the mask."""

    def __init__(self, keep):
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight):
        return weight * self.keep


def pair(family, shape=(12, 22), dtype=torch.float32, pattern=None):
    """A trainable layer and the dense one with the same mask."""
    dense = dense_layer(shape, dtype=dtype)
    mask = random_mask(shape, pattern or PATTERN[family], 0.0 if family in (Dense, NMPacked) else 0.5)
    layer = SparseLinear.from_dense(dense, mask, family, trainable=True)
    return layer, parametrize.register_parametrization(dense, "weight", Masked(mask.keep)), mask.keep


def weight_gradient(layer):
    """The gradients of the stored values, unpacked."""
    parts = {n: t.grad if t.is_floating_point() else t for n, t in layer.packed.tensors().items()}
    return layer.format.from_parts(parts, layer.packed.integers()).unpack()


@every_format
@pytest.mark.parametrize("lead", [(), (1,), (0,), (7,), (2, 3), (33,)], ids=str)
@pytest.mark.parametrize("shape", [(12, 22), (40, 37)], ids=str)
def test_gradients_of_kept_weights_input_and_bias(family, lead, shape):
    layer, _, keep = pair(family, shape)
    x = random_weight((*lead, shape[1]), seed=3).requires_grad_()
    grad = random_weight((*lead, shape[0]), seed=4)
    y = layer(x)
    y.backward(grad)
    flat_grad, flat_x = grad.reshape(-1, shape[0]), x.detach().reshape(-1, shape[1])
    assert_product(y.detach(), x.detach(), layer.weight, layer.bias.detach())
    assert_product(x.grad, grad, layer.weight.T)
    found = weight_gradient(layer)
    assert not torch.count_nonzero(found[~keep])
    assert_product(torch.where(keep, found, flat_grad.T @ flat_x), flat_grad.T, flat_x.T)
    assert_product(layer.bias.grad[None], torch.ones(1, len(flat_grad)), flat_grad.T)


@every_format
def test_gradients_equal_autograds_in_float64(family):
    layer, dense, _ = pair(family, dtype=torch.float64)
    inputs = [random_weight((5, 22), torch.float64, 3).requires_grad_() for _ in range(2)]
    for module, x in zip((layer, dense), inputs):
        module(x).square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad)
    assert torch.allclose(weight_gradient(layer), dense.parametrizations.weight.original.grad)
    assert torch.allclose(layer.bias.grad, dense.bias.grad)


@every_format
def test_training_with_adam_is_training_the_masked_layer(family):
    layer, dense, keep = pair(family, (24, 22))
    models = [nn.Sequential(m, nn.ReLU(), copy.deepcopy(dense_layer((3, 24)))) for m in (layer, dense)]
    x, target = random_weight((33, 22), seed=5), random_weight((33, 3), seed=6)
    losses = []
    for model in models:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(6):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert torch.allclose(layer.weight, dense.weight.detach(), atol=1e-4)
    assert not torch.count_nonzero(layer.weight[~keep])
    with torch.no_grad():  # inference sees the trained values
        assert_product(layer(x), x, layer.weight, layer.bias)


def test_block_csr_trains_natively(monkeypatch):
    used = []
    native = sparsekit.kernels.GRADIENT_KERNELS[0]

    def bind(packed, places):
        used.append(packed)
        return native.bind(packed, places)

    counting = sparsekit.kernels.GradientKernel("counting", BlockCSR, native.refuses, bind)
    monkeypatch.setattr(sparsekit.kernels, "GRADIENT_KERNELS", (counting,))
    if native.refuses(sparsekit.kernels.Problem(pair(BlockCSR)[0].packed, 7)) is not None:
        pytest.skip("no native kernels here")
    layer, _, _ = pair(BlockCSR)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(1, 4):
        layer(random_weight((7, 22)).requires_grad_()).sum().backward()
        optimizer.step()
        assert len(used) == step


def test_values_and_bias_are_the_parameters_and_keys_stay():
    layer, _, _ = pair(CSR)
    fixed = SparseLinear.from_packed(
        layer.packed.from_parts({n: t.detach() for n, t in layer.packed.tensors().items()}, layer.packed.integers()),
        layer.bias.detach(),
    )
    assert [name for name, _ in layer.named_parameters()] == ["packed_values", "bias"]
    assert [name for name, _ in fixed.named_parameters()] == ["bias"]
    assert set(layer.state_dict()) == set(fixed.state_dict())
    assert (layer.trainable, fixed.trainable) == (True, False)
    assert "trainable=True" in repr(layer)
    assert "trainable" not in repr(fixed)
    assert not layer.weight.requires_grad
    fixed.load_state_dict(layer.state_dict())
    layer.load_state_dict(fixed.state_dict())
    assert (layer.trainable, fixed.trainable) == (True, False)
    assert_same_layer(layer, fixed)
    tail = SparseLinear.from_dense(dense_layer(), random_mask((12, 20), NM(2, 3), 0.0), trainable=True, format="nm")
    assert {name for name, _ in tail.named_parameters()} == {"packed_values", "packed_tail", "bias"}


@every_format
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_trainable(family, copied):
    layer, _, _ = pair(family)
    twin = copied(layer)
    assert twin.trainable
    assert_same_layer(twin, layer)
    with torch.no_grad():
        twin.packed_values.zero_()
    assert torch.count_nonzero(layer.weight)


def test_loading_another_mask_makes_new_parameters_and_the_same_mask_keeps_them():
    layer, _, _ = pair(CSR, (12, 20))
    before = layer.packed_values
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert layer.packed_values is before
    other = SparseLinear.from_dense(dense_layer(), random_mask((12, 20), Unstructured(), 0.9), CSR)
    layer.packed_values.requires_grad_(False)
    layer.load_state_dict(other.state_dict())
    assert layer.trainable
    assert not layer.packed_values.requires_grad
    assert same_bits(layer.weight, other.weight)


def test_conversions_keep_parameters():
    layer, _, _ = pair(BlockCSR)
    weight = layer.weight.double()
    layer.double()
    assert isinstance(layer.packed_values, nn.Parameter)
    assert same_bits(layer.weight, weight)
    layer(torch.zeros(3, 22, dtype=torch.float64)).sum().backward()
    assert layer.packed_values.grad.dtype == torch.float64


def test_formats_that_would_fill_zeros_are_refused():
    dense, mask = dense_layer((12, 22)), random_mask((12, 22), Unstructured(), 0.3)
    with pytest.raises(FormatError, match=r"dense: cannot train .*stores 264 weights, and the mask keeps 18\d"):
        SparseLinear.from_dense(dense, mask, Dense, trainable=True)
    few = Mask(torch.eye(12, 22, dtype=torch.bool), NM(2, 4))
    with pytest.raises(FormatError, match="nm: cannot train"):
        SparseLinear.from_dense(dense, few, NMPacked, trainable=True)
    assert SparseLinear.from_dense(dense, mask, trainable=True).format is Bitmask
    assert SparseLinear.from_dense(dense, mask).format is Dense
    assert SparseLinear.from_dense(dense, trainable=True).format is Dense  # no zeros
    example = torch.zeros(3, 22)
    assert SparseLinear.from_dense(dense, mask, example=example, trainable=True).format in (CSR, Bitmask)


@every_format
def test_to_dense_gives_the_masked_layer(family):
    layer, dense, _ = pair(family)
    layer.eval().bias.requires_grad_(False)
    torch.manual_seed(0)
    found, state = layer.to_dense(), torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(found) is nn.Linear
    assert (found.training, found.weight.requires_grad, found.bias.requires_grad) == (False, True, False)
    assert torch.equal(found.weight, dense.weight)
    with torch.no_grad():
        found.bias.zero_()
    assert torch.equal(layer.bias, dense.bias)


def test_a_file_is_loaded_into_trainable_layers(tmp_path):
    layer, _, _ = pair(BlockCSR)
    save(nn.Sequential(layer), tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", into=nn.Sequential(copy.deepcopy(layer)))[0]
    assert again.trainable
    assert same_bits(again.weight, layer.weight)
    assert not load(tmp_path / "model.safetensors", into=nn.Sequential(nn.Linear(22, 12)))[0].trainable


def test_zeros_among_the_kept_weights_are_trained():
    dense = dense_layer((8, 8))
    nn.init.zeros_(dense.weight)
    layer = SparseLinear.from_dense(dense, random_mask((8, 8), Block(4, 4), 0.5), trainable=True)
    layer(torch.ones(2, 8)).sum().backward()
    assert torch.equal(layer.packed_values.grad, torch.full_like(layer.packed_values, 2.0))


def test_without_gradients_kernels_are_called_directly(monkeypatch):
    layer, _, _ = pair(BlockCSR)
    x = random_weight((5, 22))
    monkeypatch.setattr(SparseLinear, "_through_operator", lambda *_: pytest.fail("through the operator"))
    with torch.no_grad():
        layer(x)
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    monkeypatch.undo()
    layer.packed_values.requires_grad_()
    layer(x).sum().backward()
    assert layer.packed_values.grad is not None
    assert layer.bias.grad is None


def test_values_changed_between_forward_and_backward_are_an_error():
    layer, _, _ = pair(BlockCSR)
    y = layer(random_weight((5, 22)).requires_grad_())
    with torch.no_grad():
        layer.packed_values.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_penalties_of_the_gradient_reach_the_values():
    layer, dense, _ = pair(BlockCSR, dtype=torch.float64)
    found = []
    for module, weight in ((layer, layer.packed_values), (dense, dense.parametrizations.weight.original)):
        x = random_weight((5, 22), torch.float64).requires_grad_()
        (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
        found.append((weight.grad, x.grad))
    assert torch.allclose(weight_gradient(layer), found[1][0])
    assert torch.allclose(found[0][1], found[1][1])


@every_format
def test_autocast_keeps_gradients_in_the_weights_dtype(family):
    layer, _, keep = pair(family)
    x = random_weight((6, 22)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).sum().backward()
    found = weight_gradient(layer)
    assert found.dtype == torch.float32
    assert_product(torch.where(keep, found, x.float().sum(0)), torch.ones(12, 6), x.float().T)


@pytest.mark.parametrize("family", [CSR, BlockCSR, NMPacked], ids=lambda f: f.name)
def test_a_compiled_training_step(family):
    torch.compiler.reset()
    layer, _, _ = pair(family)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for model, own in ((layer, layer), (compiled, twin)):
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            model(random_weight((5, 22), seed=seed)).square().mean().backward()
            optimizer.step()
    assert torch.allclose(layer.weight, twin.weight, atol=1e-6)
    assert torch.allclose(layer.bias, twin.bias, atol=1e-6)
