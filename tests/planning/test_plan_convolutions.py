"""Plans of convolutional networks, with made-up times: what is chosen, in which order, and what stays and why."""

import json

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.nn import SparseConv2d, SparseLinear
from sparsekit.planning import compile, layer_costs, plan
from sparsekit.planning.jobs import AS_IS

LAST = torch.channels_last


class Net(nn.Module):
    """Two convolutions with what can be fused, one that is never pruned, and a linear layer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(8, 6, 3, stride=2, padding="valid")
        self.silu = nn.SiLU()
        self.full = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)
        for parameter in (self.norm.running_mean, self.norm.running_var, *self.norm.parameters()):
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x):
        x = self.silu(self.second(self.act(self.norm(self.first(x)))))
        return self.head(self.full(x).mean((2, 3)))


PRUNED = ["first", "second", "head"]


def pruned(seed=0):
    net = Net(seed).eval()
    return net, sk.prune(net, sk.Magnitude(), sparsity=0.8, layers=PRUNED)


def images(*shape, seed=0):
    return torch.randn(shape or (2, 4, 9, 8), generator=torch.Generator().manual_seed(seed))


def by_name(found):
    return {layer.name: layer for layer in found.layers}


def assert_close(fast, model, x):
    """The two agree as far as roundings of fp32 let them."""
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_sparse_is_chosen_where_it_gains(measured):
    net, _ = pruned()
    found = plan(net, images())
    layers = by_name(found)
    assert (found.order, found.seconds["contiguous"]) == ("contiguous", 4.0)
    assert list(found.seconds) == ["contiguous", "mixed", "channels_last", AS_IS]
    assert layers["first"].chosen.kernels == {(2, 9, 8): "csr_conv_native"}
    assert layers["second"].chosen.kernels == {(2, 9, 8): "csr_conv_native"}
    assert [layers[name].fused for name in ("first", "second", "full", "head")] == [("norm", "act"), ("silu",), (), ()]
    assert (layers["full"].chosen, layers["full"].reason) == (None, "no zeros")
    fast = found.apply()
    assert [type(fast.get_submodule(name)) for name in PRUNED] == [SparseConv2d, SparseConv2d, SparseLinear]
    assert [type(fast.get_submodule(name)) for name in ("norm", "act", "silu")] == [nn.Identity] * 3
    assert (fast.first.layer_name, fast.first.absorbed) == ("first", ("norm", "act"))
    assert fast.second.kernel_by_size == {(2, 9, 8): "csr_conv_native"}
    assert {fast.first.memory_format, fast.second.memory_format} == {torch.contiguous_format}
    for shape in ((2, 4, 9, 8), (1, 4, 5, 7), (0, 4, 9, 8)):
        assert_close(fast, net, images(*shape))
        assert_close(fast, net, images(*shape).to(memory_format=LAST))


def test_prepacked_dense_is_chosen_where_sparse_does_not_gain(measured):
    times, _ = measured
    times.update(csr_conv_native=3.0, dense_conv_onednn=2.0)
    net, _ = pruned()
    found = plan(net, images())
    fast = found.apply()
    for name in ("first", "second", "full"):
        layer = by_name(found)[name]
        assert (layer.sparse, layer.chosen.format) == (False, "dense")
        assert layer.reason == (
            "no zeros" if name == "full" else "csr_conv_native runs at 0.67x dense, 1.05x is needed"
        )
        assert fast.get_submodule(name).format.name == "dense"
    assert_close(fast, net, images())


def test_where_no_layer_gains_the_model_stays_as_it_is(measured, network):
    times, _ = measured
    times.update(csr_conv_native=9.9, csr_mm_native=9.9, csr_mv_native=9.9)
    net = pruned()[0].to(memory_format=LAST)
    found = plan(net, images())
    assert (found.order, found.seconds) == (AS_IS, {AS_IS: 10.0})
    assert all(layer.chosen is None for layer in found.layers)
    assert [layer.reason.split()[0] for layer in found.layers] == ["csr_conv_native"] * 2 + ["no", "csr_mv_native"]
    fast = found.apply()
    assert [type(module) for module in fast.modules()] == [type(module) for module in net.modules()]
    assert fast.first.weight.is_contiguous(memory_format=LAST)
    assert torch.equal(fast(images()), net(images()))


@pytest.mark.parametrize(("seconds", "stays"), [(10.0 / 1.05, False), (10.0 / 1.05 + 1e-6, True)])
def test_the_whole_model_has_to_gain_too(measured, network, seconds, stays):
    network.update({"contiguous": seconds, "channels_last": 11.0, "mixed": 12.0})
    net, _ = pruned()
    found = plan(net, images())
    layers = by_name(found)
    assert found.order == (AS_IS if stays else "contiguous")
    assert (layers["first"].chosen is None) == stays
    assert layers["first"].reason == ("the whole model gains 1.05x, 1.05x is needed" if stays else "")
    assert layers["full"].reason == "no zeros"
    assert any(isinstance(module, SparseConv2d | SparseLinear) for module in found.apply().modules()) != stays


def test_orders_may_be_mixed(measured, network):
    times, _ = measured
    times["dense_conv_onednn"] = lambda job: 5.0 if job.order == "channels_last" else 20.0
    network["mixed"] = 1.0
    net, _ = pruned()
    found = plan(net, images())
    layers = by_name(found)
    assert found.order == "mixed"
    assert [layers[name].order for name in ("first", "second", "full")] == ["contiguous", "contiguous", "channels_last"]
    fast = found.apply()
    assert fast.first.memory_format is fast.second.memory_format is torch.contiguous_format
    assert (fast.full.format.name, fast.full.memory_format) == ("dense", LAST)
    assert_close(fast, net, images())
    assert_close(fast, net, images().to(memory_format=LAST))


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "mixed"])
def test_convolutions_that_stay_follow_the_order(measured, network, order):
    network[order] = 1.0
    net, _ = pruned()
    given = torch.channels_last if order == "contiguous" else torch.contiguous_format
    before = {name: p.stride() for name, p in net.to(memory_format=given).named_parameters()}
    net.full = nn.Conv2d(6, 6, 2).to(memory_format=given)
    fast = plan(net, images()).apply()
    kept = torch.contiguous_format if order == "contiguous" else LAST
    assert type(fast.full) is nn.Conv2d
    assert fast.full.weight.is_contiguous(memory_format=kept)
    assert net.full.weight.is_contiguous(memory_format=given)
    assert fast.first.memory_format is (LAST if order == "channels_last" else torch.contiguous_format)
    assert net.first.weight.stride() == before["first.weight"]
    assert_close(fast, net, images())


class Flat(nn.Module):
    """A model that runs with contiguous images only, and holds weights that channels_last cannot be said of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(4, 8, 3), nn.Linear(8 * 16, 4)
        self.volume = nn.Conv3d(1, 1, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = self.volume(x[:, None])[:, 0] if x.is_contiguous() else x
        return self.head(x.view(x.shape[0], -1))


def test_an_order_in_which_the_model_does_not_run_is_left_out(measured, network):
    network["channels_last"] = 1.0
    net = Flat().eval()
    sk.prune(net, sk.Magnitude(), sparsity=0.8, layers=["conv"])
    found = plan(net, images(2, 4, 6, 6))
    assert found.order == "contiguous"
    assert "channels_last" not in found.seconds
    assert_close(found.apply(), net, images(2, 4, 6, 6))


def test_a_model_that_takes_dense_layers_only_stays_as_it_is(measured):
    class Asks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * len(self[0].output_padding)

    net = Asks(nn.Conv2d(4, 8, 3)).eval()
    sk.prune(net, sk.Magnitude(), sparsity=0.8)
    found = plan(net, images())
    assert (found.order, list(found.seconds)) == (AS_IS, [AS_IS])
    (layer,) = found.layers
    assert layer.reason.startswith("the model does not run with layers replaced: 'SparseConv2d' object has no")
    assert torch.equal(found.apply()(images()), net(images()))


@pytest.mark.parametrize("network_gains", [True, False])
def test_masks_are_applied_to_layers_that_stay(measured, network, network_gains):
    if not network_gains:
        network.update(dict.fromkeys(("contiguous", "channels_last", "mixed"), 11.0))
    times, _ = measured
    times["csr_conv_native"] = lambda job: 4.0 if job.weight.shape[1] == 4 else 20.0
    net = Net().eval()
    masks = {name: torch.rand_like(p) > 0.5 for name, p in net.named_parameters() if p.dim() == 4}
    masks["norm.bias"] = torch.tensor([True] * 4 + [False] * 4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fast = compile(net, images(), masks)
    assert isinstance(fast.first, SparseConv2d) == network_gains
    for name in ("second", "full"):
        layer = fast.get_submodule(name)
        assert type(layer) is nn.Conv2d
        assert torch.equal(layer.weight, before[f"{name}.weight"] * masks[f"{name}.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).masked_fill_(~mask, 0.0)
    assert_close(fast, net, images())


def test_a_plan_is_json(measured):
    net, _ = pruned()
    found = json.loads(json.dumps(plan(net, images()).as_json()))
    assert found["order"] == "contiguous"
    assert found["network_us"]["contiguous"] == pytest.approx(4e6)
    first, _, full, head = found["layers"]
    assert first["calls"] == {"2x9x8": 1}
    assert first["kernels"] == {"2x9x8": "csr_conv_native"}
    assert (first["fused"], first["shape"], first["eager_us"]) == (["norm", "act"], [8, 4, 3, 3], 10e6)
    assert (full["format"], full["reason"]) == (None, "no zeros")
    assert head["calls"] == {"2": 1}


def test_what_is_measured_and_that_it_is_measured_once(measured):
    _, jobs = measured
    net, _ = pruned()
    plan(net, images())
    assert [(job.order, job.size) for job in jobs[:3]] == [
        ("contiguous", size) for size in ((2, 9, 8), (2, 9, 8), (2, 4, 3))
    ]
    assert [job.order for job in jobs[4:]] == ["channels_last"] * 3
    plan(net, images())
    assert len(jobs) == 7, "the second plan reads the cache, and the linear layer is measured in one order"
    plan(net, images(3, 4, 9, 8))
    assert len(jobs) == 14


def test_costs_of_convolutions(measured):
    times, _ = measured
    times["dense_conv_onednn"] = lambda job: 7.0 if job.border.convolution.activation == "relu" else 20.0
    costs = layer_costs(pruned()[0], images())
    assert costs == {"first.weight": 7.0, "second.weight": 10.0, "full.weight": 10.0, "head.weight": 9.8}


def test_costs_are_of_all_calls(measured):
    conv = nn.Conv2d(4, 4, 3)
    assert layer_costs(nn.Sequential(conv, conv), images()) == {"0.weight": pytest.approx(2 * 9.8)}


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv2d(4, 4, 1)], ids=str)
def test_computed_weights_have_no_costs_and_can_be_replaced(measured, layer):
    times, _ = measured
    times.update({"dense_linear_onednn": 1.0, "dense_conv_onednn": 1.0})
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(layer)).eval()
    x = torch.randn(2, 4, 5, 4)
    assert layer_costs(model, x) == {}
    fast = compile(model, x)
    assert isinstance(fast[0], SparseConv2d | SparseLinear)
    assert_close(fast, model, x)


@pytest.mark.parametrize("masked", [True, False])
def test_a_model_that_is_a_convolution(measured, masked):
    conv = nn.Conv2d(4, 8, 3).eval()
    masks = sk.prune(conv, sk.Magnitude(), sparsity=0.8)
    fast = compile(conv, images(), masks if masked else None)
    assert isinstance(fast, SparseConv2d)
    assert_close(fast, conv, images())


class Calls(nn.Module):
    """Calls one convolution as often, and with what, as it is told."""

    def __init__(self, conv=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 8, 3) if conv is None else conv
        self.norm = nn.BatchNorm2d(8)
        with torch.no_grad():
            self.conv.weight.mul_(torch.rand_like(self.conv.weight) > 0.8)

    def forward(self, *images):
        return [self.norm(self.conv(x)) if x.dim() == 4 else self.conv(x) for x in images]


def only(found):
    (layer,) = found.layers
    return layer


def test_several_sizes_in_one_call(measured):
    _, jobs = measured
    model = Calls().eval()
    sizes = (images(2, 4, 9, 8), images(1, 4, 5, 5), images(0, 4, 5, 5), images(2, 4, 9, 8))
    found = plan(model, sizes)
    layer = only(found)
    assert layer.calls == {(1, 5, 5): 1, (2, 9, 8): 2}
    assert layer.chosen.kernels == dict.fromkeys(layer.calls, "csr_conv_native")
    assert (layer.chosen.seconds, layer.eager, layer.fused) == (12.0, 30.0, ())
    assert len(jobs) == 4
    fast = found.apply()
    assert type(fast.norm) is nn.BatchNorm2d
    with torch.no_grad():
        for got, wanted in zip(fast(*sizes), model(*sizes)):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_size_without_a_kernel_keeps_a_format_out(measured):
    times, _ = measured
    times.pop("csr_conv_native")
    assert only(plan(Calls(), (images(2, 4, 9, 8), images(1, 4, 5, 5)))).reason.startswith(
        "no sparse kernel runs every"
    )


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((images(4, 9, 8),), "the example inputs call it with an image that has no batch dimension"),
        ((images(), images(4, 9, 8)), "the example inputs call it with an image that has no batch dimension"),
        ((images(0, 4, 9, 8),), "the example inputs call it with empty batches only"),
        ((), "the example inputs never call it"),
    ],
)
def test_calls_that_keep_a_convolution(measured, inputs, reason):
    _, jobs = measured
    found = plan(Calls().eval(), inputs)
    assert (only(found).reason, found.order, jobs) == (reason, AS_IS, [])


class Doubling(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Scaling(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, 2 * weight, bias)


def changed(name):
    conv = nn.Conv2d(4, 8, 3)
    computes = getattr(conv, name)
    setattr(conv, name, lambda *args: 2 * computes(*args))
    return conv


def hooked(register, hook):
    conv = nn.Conv2d(4, 8, 3)
    getattr(conv, register)(hook)
    return conv


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Doubling(4, 8, 3), "Doubling has a forward of its own"),
        (Scaling(4, 8, 3), "Scaling has a forward of its own"),
        (changed("forward"), "Conv2d has a forward of its own"),
        (changed("_conv_forward"), "Conv2d has a forward of its own"),
        (hooked("register_forward_hook", lambda *_: None), "it has hooks, which a packed layer would lose"),
        (hooked("register_forward_pre_hook", lambda *_: None), "it has hooks, which a packed layer would lose"),
        (hooked("register_full_backward_hook", lambda *_: None), "it has hooks, which a packed layer would lose"),
        (nn.Conv2d(4, 8, 3), ""),
    ],
)
def test_convolutions_that_others_have_changed_stay(measured, conv, reason):
    model = Calls(conv).eval()
    found = plan(model, images())
    layer = only(found)
    assert (layer.reason, layer.chosen is None, layer.dense is None) == (reason, bool(reason), bool(reason))


def test_weights_of_convolutions_that_cannot_be_replaced_keep_their_order(measured, network):
    network["channels_last"] = 1.0
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Doubling(4, 4, 3), nn.ConvTranspose2d(4, 4, 3)).eval()
    sk.prune(model, sk.Magnitude(), sparsity=0.8, layers=["0"])
    fast = compile(model, images())
    assert fast[0].memory_format is LAST
    assert fast[1].weight.is_contiguous()
    assert type(fast[2]) is nn.ConvTranspose2d
    assert fast[2].weight.is_contiguous()
    assert_close(fast, model, images())


def test_a_shared_convolution(measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Sequential()).eval()
    model[2].append(model[0])
    sk.prune(model, sk.Magnitude(), sparsity=0.8)
    found = plan(model, images())
    assert only(found).calls == {(2, 7, 6): 1, (2, 9, 8): 1}
    fast = found.apply()
    assert isinstance(fast[0], SparseConv2d)
    assert fast[2][0] is fast[0]
    assert type(fast[1]) is nn.ReLU
    assert_close(fast, model, images())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plan(Net().to("meta"), images()), sk.LayerError, r"first\.weight.*meta device"),
        (lambda: plan(nn.LazyConv2d(2, 3), images()), sk.LayerError, "weight: expected a tensor with data, got a lazy"),
        (
            lambda: plan(nn.Sequential(nn.Conv2d(4, 4, 3, dtype=torch.complex64)), images()),
            sk.LayerError,
            r"0\.weight: expected a floating weight, got torch\.complex64",
        ),
        (
            lambda: plan(Net(), images(2, 5, 9, 8)),
            sk.InputError,
            r"expected what Net takes, got float32 \(2, 5, 9, 8\)",
        ),
        (
            lambda: plan(Net(), images(), {"first.weight": torch.ones(8, 36).bool()}),
            sk.MaskError,
            r"first\.weight: expected a mask of shape \(8, 4, 3, 3\), got \(8, 36\)",
        ),
        (
            lambda: plan(Net(), images(), {"frist.weight": torch.ones(8, 4, 3, 3).bool()}),
            sk.LayerError,
            r"frist\.weight; did you mean first\.weight",
        ),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_measured(measured, call, error, words):
    _, jobs = measured
    with pytest.raises(error, match=words):
        call()
    assert jobs == []


def test_integer_weights_are_refused_by_name():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    model[0].weight = nn.Parameter(torch.ones(4, 4, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(sk.LayerError, match=r"0\.weight: expected a floating weight, got torch\.int8"):
        plan(model, images())
