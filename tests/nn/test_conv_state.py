"""Copies, pickles, state dicts, conversions and files of SparseConv2d."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sparsekit.checkpoint import load, save
from sparsekit.errors import CheckpointError, LayerError
from sparsekit.formats import CSR, Bitmask
from sparsekit.nn import SparseConv2d, SparseLinear, layer_named
from tests.nn.test_conv import conv_mask, dense_conv, every_format, sparse_conv
from tests.numerics import assert_convolution
from tests.weights import FLOATING, random_weight, same_bits


def assert_same_conv(a, b):
    assert a.format is b.format
    assert same_bits(a.weight, b.weight)
    assert (a.bias is None) == (b.bias is None)
    assert a.bias is None or same_bits(a.bias.data, b.bias.data)
    assert a.get_extra_state() == b.get_extra_state()
    assert (a.training, a.absorbed) == (b.training, b.absorbed)
    x = random_weight((2, a.in_channels, 7, 8), a.packed_values.dtype)
    with torch.no_grad():
        assert same_bits(a(x), b(x))


@every_format
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_copies_are_equal_and_independent(family, copied, mode):
    layer = sparse_conv(family, "relu", padding_mode=mode)
    layer.layer_name, layer.kernel_by_size, layer.absorbed = "name", {(1, 5, 5): "some_kernel"}, ("norm",)
    layer(torch.zeros(1, 6, 5, 5))
    twin = copied(layer.eval())
    assert_same_conv(twin, layer)
    assert twin.layer_name == "name"
    twin.packed_values.zero_()
    assert torch.count_nonzero(layer.weight)
    assert not torch.count_nonzero(twin.weight)


@every_format
def test_state_dict_round_trip_into_another_format_and_sparsity(family):
    layer, conv = sparse_conv(family, bias=False), dense_conv(bias=False)
    layer.kernel_by_size = {(2, 7, 8): "some_kernel"}
    other = SparseConv2d.from_dense(conv, conv_mask(CSR, conv.weight.shape, 0.9), Bitmask if family is CSR else CSR)
    other(torch.zeros(1, 6, 5, 5))
    other.load_state_dict(layer.state_dict())
    assert_same_conv(other, layer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 2}, "expected convolution .*'stride': \\[1, 1\\].*, got .*'stride': \\[2, 2\\]"),
        ({"padding_mode": "circular"}, "expected padding_mode zeros, got circular"),
        ({"bias": False}, 'Missing key.*"bias"'),
    ],
)
def test_state_dicts_of_other_convolutions_are_refused(settings, message):
    layer = sparse_conv()
    before = layer.weight
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(sparse_conv(**settings).state_dict())
    assert same_bits(layer.weight, before)


def test_state_dicts_of_the_other_layer_are_refused():
    linear, conv = SparseLinear.from_dense(nn.Linear(54, 8), format="csr"), sparse_conv()
    with pytest.raises(RuntimeError, match=r"expected the state of a SparseConv2d, with .*'convolution'"):
        conv.load_state_dict(linear.state_dict())
    with pytest.raises(RuntimeError, match=r"expected the state of a SparseLinear, with .*'kernel_by_batch'"):
        linear.load_state_dict(conv.state_dict())


@every_format
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_to_dtype_keeps_the_structure(family, dtype):
    layer = sparse_conv(family)
    layer(torch.zeros(1, 6, 5, 5))
    expected = layer.weight.to(dtype)
    assert layer.to(dtype) is layer
    assert same_bits(layer.weight, expected)
    x = random_weight((1, 6, 5, 5), dtype)
    with torch.no_grad():
        assert_convolution(layer(x), x, layer.weight, layer.convolution, layer.bias)


def test_conversions_to_channels_last_leave_the_packed_weight_as_it_is():
    layer = sparse_conv(CSR)
    before = layer.weight
    assert same_bits(layer.to(memory_format=torch.channels_last).weight, before)


def test_meta_layers_say_so():
    layer = sparse_conv().to("meta")
    assert "sparsity" not in repr(layer)
    with torch.no_grad(), pytest.raises(LayerError, match="expected a weight with data, got one on the meta device"):
        layer(torch.zeros(1, 6, 5, 5, device="meta"))


class Net(nn.Module):
    """Two convolutions, one of them shared, a BatchNorm and an activation."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect")
        self.norm, self.act = nn.BatchNorm2d(6), nn.SiLU()
        self.second = nn.Conv2d(6, 6, (3, 2), stride=2, dilation=(1, 2), groups=2, bias=False)
        self.again = nn.Sequential(self.second)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        return self.head(self.again(self.second(x)).mean((2, 3)))


def compiled_net(seed=0, fused=False):
    """A net with packed layers; ``fused`` folds its BatchNorm and activation into the first."""
    net = Net(seed).eval()
    first = net.first
    if fused:
        scale = net.norm.weight.detach() / (net.norm.running_var + net.norm.eps).sqrt()
        first = copy.deepcopy(first)
        first.weight.data *= scale[:, None, None, None]
        first.bias.data = (first.bias.detach() - net.norm.running_mean) * scale + net.norm.bias.detach()
        net.norm, net.act = nn.Identity(), nn.Identity()
    mask = conv_mask(CSR, first.weight.shape)
    net.first = SparseConv2d.from_dense(first, mask, CSR, activation="silu" if fused else "none").eval()
    net.first.absorbed = ("norm", "act") if fused else ()
    net.first.kernel_by_size = {(1, 9, 9): "some_kernel"}
    mask = conv_mask(Bitmask, net.second.weight.shape)
    net.second = net.again[0] = SparseConv2d.from_dense(net.second, mask, Bitmask).eval()
    net.head = SparseLinear.from_dense(net.head, format="csr").eval()
    return net


def assert_same_net(a, b):
    assert_same_conv(a.first, b.first)
    assert_same_conv(a.second, b.second)
    assert a.again[0] is a.second
    x = random_weight((2, 3, 9, 9))
    with torch.no_grad():
        assert same_bits(a(x), b(x))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "into", [lambda fused: Net(1).eval(), lambda fused: compiled_net(1), lambda fused: compiled_net(1, fused)]
)
def test_files_bring_their_layers_into_any_model_of_the_architecture(into, fused, tmp_path):
    net = compiled_net(fused=fused)
    save(net, tmp_path / "m")
    loaded = load(tmp_path / "m", into=into(fused))
    assert_same_net(loaded, net)
    assert loaded.first.layer_name == "first"
    assert isinstance(loaded.norm, nn.Identity) == fused
    assert isinstance(loaded.act, nn.Identity) == fused


def test_files_of_dense_models_make_packed_layers_dense(tmp_path):
    dense = Net().eval()
    save(dense, tmp_path / "m")
    loaded = load(tmp_path / "m", into=compiled_net(1))
    assert type(loaded.first) is nn.Conv2d
    assert type(loaded.second) is nn.Conv2d
    x = random_weight((2, 3, 9, 9))
    with torch.no_grad():
        assert same_bits(loaded(x), dense(x))
    with pytest.raises(CheckpointError, match=r"no .*first\.0\.bias.*unknown .*first\.bias"):
        load(tmp_path / "m", into=compiled_net(1, fused=True))


def test_the_header_says_what_the_convolution_does(tmp_path):
    net = compiled_net(fused=True)
    net.first.memory_format = torch.channels_last
    save(net, tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        header = json.loads(file.metadata()["sparsekit"])
    assert header["format_version"] == 1
    assert header["layers"]["again.0"] == {"same_as": "second"}
    assert header["layers"]["first"] == {
        "layer": "conv2d",
        "format": "csr",
        "integers": {"rows": 6, "columns": 27},
        "convolution": {
            "in_channels": 3,
            "kernel_size": [3, 3],
            "stride": [1, 1],
            "padding": [1, 1, 1, 1],
            "dilation": [1, 1],
            "groups": 1,
            "activation": "silu",
        },
        "padding_mode": "reflect",
        "memory_format": "channels_last",
        "kernel_by_size": [[1, 9, 9, "some_kernel"]],
        "bias": True,
        "dtype": "float32",
        "out_channels": 6,
        "absorbed": ["norm", "act"],
    }
    assert "layer" not in header["layers"]["head"]


def changed(**settings):
    """A net whose first convolution is another one."""
    net = Net().eval()
    net.first = nn.Conv2d(**{"in_channels": 3, "out_channels": 6, "kernel_size": 3, "padding": 1, **settings})
    return net


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (
            lambda: changed(out_channels=7),
            r"first: expected .* = \(7, True\) as the model says, got \(6, True\)",
        ),
        (lambda: changed(bias=False), r"first: expected \(out, bias\) = \(6, False\) as the model says"),
        (
            lambda: changed(stride=2),
            r"first: expected \(convolution, padding mode\) = .*stride=\(2, 2\).* as",
        ),
        (lambda: changed(padding_mode="zeros"), r"first: expected .*'zeros'\) as the model says, got .*'reflect'\)"),
    ],
)
def test_models_that_do_not_fit(into, message, tmp_path):
    save(compiled_net(), tmp_path / "m")
    with pytest.raises(CheckpointError, match=f"m: layer {message}"):
        load(tmp_path / "m", into=into())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["first"].update(layer="conv4d"), "layer first: expected a layer of linear, conv2d, got 'conv4d'"),
        (lambda h: h["first"].pop("layer"), "layer first: expected a Linear to replace, got Conv2d"),
        (lambda h: h["first"].pop("convolution"), "layer first: its header is damaged: KeyError"),
        (lambda h: h["first"]["convolution"].update(stride="many"), "layer first: .*expected stride to be 2 integers"),
        (lambda h: h["first"]["convolution"].update(more=1), "layer first: its header is damaged: TypeError"),
        (
            lambda h: h["first"].update(out_channels=7),
            r"layer first: expected .* = \(7, True\) as the header says",
        ),
        (lambda h: h["first"].update(kernel_by_size=[1]), "layer first: its header is damaged: TypeError"),
        (lambda h: h["first"].update(absorbed=["nothing"]), "nothing: expected the name of a layer"),
        (
            lambda h: h["first"].update(absorbed=["head"]),
            "layer head: expected a BatchNorm2d, an .* or an Identity, got Linear",
        ),
        (lambda h: h.update(head={**h["first"]}), "layer head: expected a Conv2d to replace, got Linear"),
    ],
)
def test_headers_that_do_not_fit(change, message, tmp_path):
    save(compiled_net(), tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        header = json.loads(file.metadata()["sparsekit"])
    change(header["layers"])
    save_file(load_file(tmp_path / "m"), tmp_path / "m", metadata={"sparsekit": json.dumps(header)})
    with pytest.raises(CheckpointError, match=f"m: {message}"):
        load(tmp_path / "m", into=Net())


def test_an_activation_that_the_model_would_apply_again_is_refused(tmp_path):
    net = compiled_net(fused=True)
    net.first.absorbed = ()
    save(net, tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"first: expected .*activation='none'.* as the model says, got .*'silu'"):
        load(tmp_path / "m", into=Net())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last, None], ids=str)
def test_the_order_of_the_result_is_part_of_the_state(order, tmp_path):
    net = compiled_net()
    net.first.memory_format = order
    save(net, tmp_path / "m")
    other = compiled_net(1)
    other.first.memory_format = torch.channels_last
    other.load_state_dict(net.state_dict())
    copies = (other, load(tmp_path / "m", into=Net()), load(tmp_path / "m", into=other), copy.deepcopy(net))
    assert all(again.first.memory_format is order for again in copies)


def test_a_header_with_an_unknown_order_is_damaged(tmp_path):
    save(compiled_net(), tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        header = json.loads(file.metadata()["sparsekit"])
    header["layers"]["first"]["memory_format"] = "nchw"
    save_file(load_file(tmp_path / "m"), tmp_path / "m", metadata={"sparsekit": json.dumps(header)})
    with pytest.raises(CheckpointError, match="layer first: its header is damaged: KeyError"):
        load(tmp_path / "m", into=Net())


def test_layers_have_names():
    assert layer_named("linear") is SparseLinear
    assert layer_named("conv2d") is SparseConv2d
