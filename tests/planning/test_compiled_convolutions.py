"""Compiled convolutional networks: what they compute, what they leave alone, and how they are stored."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsekit as sk
from sparsekit.nn import SparseConv2d
from sparsekit.planning import compile, plan
from sparsekit.planning.jobs import AS_IS
from tests.numerics import assert_convolution
from tests.planning.test_plan_convolutions import Net, assert_close, by_name, images, pruned
from tests.weights import same_bits


def exact(model, x):
    """What the model computes, in float64."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(x.double())


def test_a_fused_convolution_is_as_near_as_its_own_roundings(measured):
    net, _ = pruned()
    fast, x = compile(net, images()), images()
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    with torch.no_grad():
        assert_convolution(fast.first(x), x, fast.first.weight, fast.first.convolution, fast.first.bias)
        wanted = F.relu(net.norm.double()(net.first.double()(x.double())))
        torch.testing.assert_close(fast.first(x).double(), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast.first.weight, net.first.weight.float() * scale[:, None, None, None])


def test_in_float64_fusing_changes_the_last_bits_only(measured):
    times, _ = measured
    times["dense_conv_reference"] = 1.0
    net = pruned()[0].double()
    x = images().double()
    fast = compile(net, x)
    assert (type(fast.norm), type(fast.act), fast.first.format.name) == (nn.Identity, nn.Identity, "dense")
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-13, atol=1e-13)
        assert not torch.equal(fast.first(x), net.first(x))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        *(((4, 8, 3), {"padding": (1, 2), "padding_mode": mode}) for mode in ("reflect", "replicate", "circular")),
        ((4, 8, 3), {"padding": "same", "dilation": 2}),
        ((4, 8, (2, 4)), {"padding": "same"}),
        ((4, 8, (2, 4)), {"padding": "same", "padding_mode": "circular"}),
        ((4, 8, 3), {"groups": 2, "bias": False}),
        ((4, 8, (3, 1)), {"stride": (2, 3)}),
        ((4, 8, 1), {"padding": "valid"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_any_convolution(measured, sizes, settings, fused):
    torch.manual_seed(0)
    behind = (nn.BatchNorm2d(8), nn.SiLU()) if fused else (nn.GELU(),)
    model = nn.Sequential(nn.Conv2d(*sizes, **settings), *behind).eval()
    sk.prune(model, sk.Magnitude(), sparsity=0.8)
    fast = compile(model, images())
    assert fast[0].format.name == "csr"
    assert fast[0].absorbed == (("1", "2") if fused else ())
    for x in (images(), images(3, 4, 6, 11), images(0, 4, 9, 8), images().to(memory_format=torch.channels_last)):
        with torch.no_grad():
            torch.testing.assert_close(fast(x).double(), exact(model, x), rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_is_never_sparse(measured):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)).eval()
    sk.prune(model, sk.Magnitude(), sparsity=0.8)
    found = plan(model, images())
    assert found.layers[0].reason == "no sparse kernel runs every size of input"
    assert found.order == AS_IS


class Watched(Net):
    """A net whose activations are functions, and whose BatchNorm result is read twice."""

    def forward(self, x):
        x = self.norm(self.first(x))
        x = F.silu(self.second(F.relu(x) + x))
        return self.head(self.full(x).mean((2, 3)))


def test_chains_that_others_read_are_not_fused(measured):
    net = Watched().eval()
    sk.prune(net, sk.Magnitude(), sparsity=0.8, layers=["first", "second"])
    found = plan(net, images())
    assert [by_name(found)[name].fused for name in ("first", "second")] == [("norm",), ()]
    fast = found.apply()
    assert (type(fast.norm), type(fast.act), type(fast.silu)) == (nn.Identity, nn.ReLU, nn.SiLU)
    assert_close(fast, net, images())
    net.norm.register_forward_hook(lambda *_: None)
    assert by_name(plan(net, images()))["first"].fused == ()


@pytest.mark.parametrize("gains", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was_bit_for_bit(measured, network, training, gains):
    network["channels_last"] = 1.0 if gains else 6.0
    net, masks = pruned()
    net.train(training)
    net.second.eval()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    x = images()
    fast = compile(net, x, {**masks, "full.weight": torch.rand(6, 6, 1, 1) > 0.5})
    assert all(
        torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]
        for name, tensor in net.state_dict().items()
    )
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(x, images())
    assert {name: module.training for name, module in fast.named_modules()} == modes
    assert isinstance(fast.first, SparseConv2d)
    assert not {id(p) for p in fast.parameters()} & {id(p) for p in net.parameters()}
    storages = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert not storages & {p.untyped_storage().data_ptr() for p in fast.parameters()}


def test_nothing_is_changed_where_something_raises(measured, monkeypatch):
    net, _ = pruned()
    found = plan(net, images())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def fails(*args):
        raise sk.FormatError("no room")

    monkeypatch.setattr("sparsekit.formats.CSR.pack", fails)
    with pytest.raises(sk.FormatError, match="no room"):
        found.apply()
    assert [type(module) for module in net.modules()] == [type(module) for module in Net().modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_network_compiled_in_inference_mode_can_be_trained(measured):
    net, _ = pruned()
    x = images()
    with torch.inference_mode():
        fast = compile(net, x)
    assert isinstance(fast.first, SparseConv2d)
    assert_close(fast, net, x)
    fast(x).square().sum().backward()
    for part in (fast.first, fast.second, fast.full, fast.head):
        assert part.bias.grad is not None
    assert fast.full.weight.grad.abs().sum() > 0
    assert {p.requires_grad for p in fast.parameters()} == {True}


@pytest.mark.parametrize("left", ["norm.bias", "second.bias", "second.weight", None])
def test_a_bias_is_frozen_where_all_that_it_is_made_of_is(measured, left):
    net = pruned()[0].requires_grad_(False)
    if left:
        net.get_parameter(left).requires_grad_(True)
    fast = compile(net, images())
    assert (fast.first.bias.requires_grad, fast.second.bias.requires_grad) == (
        left == "norm.bias",
        left == "second.bias",
    )
    assert fast(images()).requires_grad == (left in ("norm.bias", "second.bias"))


class Remembers(nn.Module):
    """Keeps something of its first call, as detectors keep their grids."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(4, 4, 3), None

    def forward(self, x):
        x = self.conv(x)
        self.seen = torch.full_like(x, 2.0)
        return x * self.seen


def test_what_a_model_keeps_of_its_calls_can_be_trained_with(measured):
    model = Remembers().eval()
    plan(model, images())
    assert not model.seen.is_inference()


def settings_of(layer):
    return layer.get_extra_state(), layer.absorbed, layer.layer_name, layer.training


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "mixed"])
@pytest.mark.parametrize("into", ["dense", "compiled", "itself"])
@pytest.mark.parametrize("chained", [True, False])
def test_compiled_networks_are_stored_and_loaded(measured, network, tmp_path, chained, into, order):
    network[order] = 1.0
    kind, x = (Net, images()) if chained else (Watched, images())
    net, other = (kind(seed).eval() for seed in (0, 1))
    for model in (net, other):
        model.full = nn.Conv2d(6, 6, 2)
        sk.prune(model, sk.Magnitude(), sparsity=0.8, layers=["first", "second", "head"])
    fast = compile(net, x)
    sk.save(fast, tmp_path / "m")
    target = {"dense": other, "compiled": compile(other, x), "itself": fast}[into]
    loaded = sk.load(tmp_path / "m", into=target)
    for name in ("first", "second"):
        assert settings_of(loaded.get_submodule(name)) == settings_of(fast.get_submodule(name))
    assert [type(module) for module in loaded.modules()] == [type(module) for module in fast.modules()]
    assert loaded.full.weight.stride() == fast.full.weight.stride()
    assert fast.full.weight.is_contiguous() == (order == "contiguous")
    for given in (x, x.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert same_bits(loaded(given), fast(given))


def test_weights_in_channels_last_order_may_be_shared(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 2))
    model[1].weight = model[0].weight
    model.to(memory_format=torch.channels_last)
    sk.save(model, tmp_path / "m")
    other = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 2))
    other[1].weight = other[0].weight
    loaded = sk.load(tmp_path / "m", into=other)
    assert loaded[1].weight is loaded[0].weight
    assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert other[0].weight.is_contiguous()


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "mixed"])
def test_compiled_networks_can_be_compiled_again(measured, network, order):
    network[order] = 1.0
    net, _ = pruned()
    x = images()
    fast = compile(net, x)
    with torch.no_grad():
        wanted = fast(x)
        assert same_bits(compile(fast, x)(x), wanted)
        assert same_bits(copy.deepcopy(fast)(x), wanted)
    torch._dynamo.reset()
    graph = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(graph, net, x)
        y = torch.compile(fast.first, fullgraph=True, backend="aot_eager")(x)
    assert y.is_contiguous(memory_format=fast.first.memory_format)


def test_a_pruned_resnet_really_measured():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=5
    )
    model = transformers.ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    sk.prune(model, sk.Magnitude(), sparsity=0.9)
    x = torch.randn(2, 3, 32, 32)
    found = plan(model, {"pixel_values": x})
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(layer.mask.keep.dim() == 4 and layer.dense is not None for layer in found.layers) == len(convolutions)
    assert AS_IS in found.seconds
    fast = found.apply()
    for given in (x, x.to(memory_format=torch.channels_last), torch.randn(1, 3, 41, 35)):
        with torch.no_grad():
            torch.testing.assert_close(fast(given).logits.double(), exact(model, given).logits, rtol=1e-4, atol=1e-5)
