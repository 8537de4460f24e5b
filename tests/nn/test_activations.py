"""Linear layers that apply an activation to their result."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsekit.errors import LayerError
from sparsekit.formats import CSR, Dense
from sparsekit.kernels.activation import ACTIVATIONS, APPLY, activated
from sparsekit.kernels.prepacked import DENSE_ONEDNN
from sparsekit.nn import SparseLinear
from sparsekit.nn.activation import activation_of, module_of
from sparsekit.patterns import Unstructured
from tests.weights import random_mask, random_weight

X = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


def pruned():
    torch.manual_seed(0)
    linear = nn.Linear(20, 12)
    linear.weight.data *= torch.rand(12, 20) > 0.8
    return linear


def layer_with(activation, **settings):
    return SparseLinear.from_dense(pruned(), format=CSR, activation=activation, **settings)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_way_of_calling_applies_it_once(activation):
    layer, wanted = layer_with(activation), APPLY[activation](pruned()(X))
    torch.testing.assert_close(layer(X), wanted)  # with gradients, through the operator
    with torch.no_grad():
        torch.testing.assert_close(layer(X), wanted)  # the kernel directly
        torch.testing.assert_close(layer(X[None])[0], wanted)
        torch.testing.assert_close(layer.to_dense()(X), wanted)
    if activation != "none":
        assert not torch.allclose(wanted, pruned()(X), atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_go_through_it(activation):
    layer, dense = layer_with(activation, trainable=True), pruned()
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    layer(x).square().sum().backward()
    APPLY[activation](dense(y)).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad)
    torch.testing.assert_close(layer.packed_values.grad, dense.weight.grad[dense.weight != 0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_onednn_applies_it_on_its_own(activation):
    assert activation in DENSE_ONEDNN.activations
    weight, bias = random_weight((12, 20)), random_weight((12,), seed=1)
    packed = Dense.pack(weight, random_mask((12, 20), Unstructured(), 0.0))
    y = DENSE_ONEDNN.bind(packed, activation)(X, bias)
    torch.testing.assert_close(y, APPLY[activation](F.linear(X, weight, bias)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_in_place_is_the_same(activation):
    y = X.clone()
    assert activated(y, activation) is y
    torch.testing.assert_close(y, APPLY[activation](X))


def test_the_state_tells_it_and_one_of_another_is_refused():
    layer, state = layer_with("gelu"), layer_with("gelu").state_dict()
    layer.load_state_dict(state)
    assert "activation=gelu" in repr(layer)
    assert "activation" not in repr(layer_with("none"))
    with pytest.raises(RuntimeError, match="expected the activation silu, got gelu"):
        layer_with("silu").load_state_dict(state)
    before = copy.deepcopy(layer_with("none").state_dict())
    del before["_extra_state"]["activation"]  # as layers wrote it that knew none
    layer_with("none").load_state_dict(before)
    with pytest.raises(RuntimeError, match="expected the activation gelu, got none"):
        layer.load_state_dict(before)


def test_an_unknown_one_is_refused():
    with pytest.raises(LayerError, match="expected an activation of none, relu, silu, gelu, gelu_tanh, got 'tanh'"):
        layer_with("tanh")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_modules_have_names_and_names_modules(activation):
    assert (activation_of(module_of(activation)) or "none") == activation


def test_other_modules_have_none():
    class Own(nn.ReLU):
        pass

    assert [activation_of(module) for module in (Own(), nn.Tanh(), nn.Identity(), None)] == [None] * 4


def test_the_modules_of_transformers_are_known():
    transformers = pytest.importorskip("transformers.activations")
    assert activation_of(transformers.ACT2FN["gelu"]) == "gelu"
    assert activation_of(transformers.ACT2FN["silu"]) == "silu"
    assert activation_of(transformers.ACT2FN["gelu_python"]) is None
    assert activation_of(transformers.ACT2FN["gelu_new"]) is None
