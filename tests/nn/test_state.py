"""Copies, pickles, state dicts and conversions of SparseLinear."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from sparsekit.errors import FormatError, LayerError
from sparsekit.formats import CSR, FORMATS, Bitmask, NMPacked
from sparsekit.nn import SparseLinear, module_at, replace_module
from sparsekit.patterns import NM, Unstructured
from tests.nn.test_linear import dense_layer, every_family, every_format, sparse_layer
from tests.numerics import assert_product
from tests.weights import FLOATING, random_mask, random_weight, same_bits


def assert_same_layer(a, b):
    assert a.format is b.format
    assert same_bits(a.weight, b.weight)
    assert (a.bias is None) == (b.bias is None)
    assert a.bias is None or same_bits(a.bias.data, b.bias.data)
    assert (a.kernel_by_batch, a.layer_name, a.training) == (b.kernel_by_batch, b.layer_name, b.training)
    x = random_weight((3, a.in_features), a.packed.dtype)
    with torch.no_grad():
        assert same_bits(a(x), b(x))


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_family
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["deepcopy", "pickle", "save"],
)
def test_copies_are_equal_and_independent(family, bias, copied):
    layer = sparse_layer(family, bias=bias)
    layer.layer_name, layer.kernel_by_batch = "name", {3: "some_kernel"}
    layer(torch.zeros(2, 20))
    twin = copied(layer.eval())
    assert_same_layer(twin, layer)
    twin.packed_values.zero_()
    assert torch.count_nonzero(layer.weight)
    assert not torch.count_nonzero(twin.weight)


@every_family
@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trip_into_another_sparsity(family, assign):
    layer = sparse_layer(family)
    layer.kernel_by_batch = {3: "some_kernel"}
    pattern = NM(1, 2) if family is NMPacked else None
    other = (
        sparse_layer(family)
        if pattern is None
        else SparseLinear.from_dense(dense_layer(), random_mask((12, 20), pattern, 0.0), family)
    )
    with torch.no_grad():
        other.packed_values.zero_()
        other(torch.zeros(1, 20))
    if family in (CSR, Bitmask):
        other = SparseLinear.from_dense(dense_layer(), random_mask((12, 20), Unstructured(), 0.9), family)
    model, target = nn.Sequential(layer, nn.ReLU()), nn.Sequential(other, nn.ReLU())
    target(torch.zeros(2, 20))
    target.load_state_dict(model.state_dict(), strict=True, assign=assign)
    assert_same_layer(target[0], layer)


@pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
def test_state_dict_brings_its_format(family):
    layer, other = sparse_layer(family), sparse_layer(CSR)
    other.load_state_dict(layer.state_dict())
    assert_same_layer(other, layer)
    assert set(other.state_dict()) == set(layer.state_dict())


def test_state_dict_survives_weights_only_load():
    layer, file = sparse_layer(CSR), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = sparse_layer(Bitmask)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_layer(other, layer)


def test_state_dict_keeps_the_dtype_of_the_layer():
    layer, other = sparse_layer(CSR, dtype=torch.float64), sparse_layer(Bitmask)
    other.load_state_dict(layer.state_dict())
    assert same_bits(other.weight, layer.weight.float())


def test_state_dict_that_does_not_fit_is_refused_in_words():
    layer = sparse_layer(CSR)
    before = layer.weight
    with pytest.raises(RuntimeError, match=r"0: expected a weight of \(12, 20\), got CSR\(12 x 21"):
        nn.Sequential(layer).load_state_dict(nn.Sequential(sparse_layer(CSR, (12, 21))).state_dict())
    broken = layer.state_dict()
    broken["packed_column_indices"] = torch.full_like(broken["packed_column_indices"], 20)
    with pytest.raises(RuntimeError, match=r"expected indices in \[0, 20\), got 20"):
        layer.load_state_dict(broken)
    with pytest.raises(RuntimeError, match=r'Missing key.*"packed_values"'):
        layer.load_state_dict({n: t for n, t in layer.state_dict().items() if n != "packed_values"})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight"'):
        layer.load_state_dict({**layer.state_dict(), "weight": torch.zeros(1)})
    assert same_bits(layer.weight, before)


@every_format
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_to_dtype_keeps_the_structure(family, dtype):
    layer = sparse_layer(family)
    layer(torch.zeros(1, 20))
    expected = layer.weight.to(dtype)
    assert layer.to(dtype) is layer
    assert same_bits(layer.weight, expected)
    assert layer.bias.dtype == dtype
    x = random_weight((3, 20), dtype)
    with torch.no_grad():
        assert_product(layer(x), x, layer.weight, layer.bias)


def test_conversions_that_make_no_sense_are_refused_and_change_nothing():
    layer = sparse_layer(CSR)
    layer.layer_name = "head"
    twin = copy.deepcopy(layer)
    with pytest.raises(
        LayerError, match=r"head: cannot be converted: .*expected values of shape .* got .* in torch\.float8_e4m3fn"
    ):
        layer.to(torch.float8_e4m3fn)
    assert_same_layer(layer, twin)
    with pytest.raises(LayerError, match="head: cannot be converted"):
        layer.type(torch.float64)
    assert_same_layer(layer, twin)


def test_meta_layers_say_so():
    layer = sparse_layer(CSR).to("meta")
    assert "sparsity" not in repr(layer)
    with torch.no_grad(), pytest.raises(LayerError, match="expected a weight with data, got one on the meta device"):
        layer(torch.zeros(3, 20, device="meta"))


def test_replace_module_replaces_every_place():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    new = nn.Identity()
    assert replace_module(model, "1.1", new) is model
    assert model[0] is new
    assert model[1][1] is new
    assert module_at(model, "1.0") is model[1][0]
    assert replace_module(model, "", new) is new
    for name in ("2", "0.weight", "relu"):
        with pytest.raises(LayerError, match=f"^{name}: expected the name of a layer of Sequential, found none"):
            replace_module(model, name, new)


def test_unknown_format_in_a_state_dict():
    layer = sparse_layer(CSR)
    state = layer.state_dict()
    state["_extra_state"]["format"] = "coo"
    with pytest.raises(RuntimeError, match="expected one of dense, csr"):
        layer.load_state_dict(state)
    with pytest.raises(FormatError):
        layer._make_room(state, "")
