"""Chains that are found, and what they are folded into, against the model as it was."""

import copy
import gc
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import InputError, LayerError
from sparsekit.planning.fusion import Fusion, apply_fusion, find_fusions, folded

KINDS = {"none": nn.Identity, "relu": nn.ReLU, "silu": nn.SiLU}
IMAGE = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """Weights, statistics, scales and shifts that are not those of a new model, nor numbers of fewer bits."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data.add_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.3)
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.abs_().add_(0.1)
    return model


def fused(model, fusions):
    """A copy of ``model`` with a dense convolution and an activation in place of each chain."""
    model = copy.deepcopy(model)
    for fusion in fusions:
        conv = copy.deepcopy(model.get_submodule(fusion.layer))
        if fusion.norm is not None:
            weight, bias = folded(conv, model.get_submodule(fusion.norm))
            conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        assert apply_fusion(model, fusion, nn.Sequential(conv, KINDS[fusion.kind]())) is model
    return model


def check(model, x=IMAGE):
    """Find the fusions, and see that in float64 they change nothing, nor anything about the model."""
    model = shaken(model.double()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fusions = find_fusions(model, x.double())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    after = fused(model, fusions)
    with torch.no_grad():
        torch.testing.assert_close(after.eval()(x.double()), model.eval()(x.double()), rtol=1e-12, atol=1e-12)
    return fusions


class Block(nn.Module):
    """The layers; ``flow`` says how they are called."""

    def __init__(self, flow, conv=None, norm=None, act=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.act = act or nn.ReLU()
        self.flow = flow

    def forward(self, x):
        return self.flow(self, x)


def plain(self, x):
    return self.act(self.norm(self.conv(x)))


ALL = (Fusion("conv", "norm", "act", "relu"),)
NORM = (Fusion("conv", "norm", None, "none"),)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.SiLU(inplace=True)], ids=str)
def test_a_whole_chain(act):
    kind = type(act).__name__.lower()
    assert check(Block(plain, act=act)) == (Fusion("conv", "norm", "act", kind),)
    assert check(nn.Sequential(nn.Conv2d(4, 3, 3), act)) == (Fusion("0", None, "1", kind),)
    assert check(nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))) == (Fusion("0", "1", None, "none"),)


@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    affine=st.booleans(),
    padding=st.sampled_from(["zeros", "reflect"]),
)
@settings(deadline=None, max_examples=15)
def test_any_convolution_folds_exactly(groups, stride, bias, affine, padding):
    options = {"groups": groups, "stride": stride, "bias": bias, "padding": 1, "padding_mode": padding}
    model = Block(plain, nn.Conv2d(4, 4, (3, 2), **options), nn.BatchNorm2d(4, eps=0.1, affine=affine))
    assert check(model) == ALL


def twice(self, x):
    return self.act(self.norm(self.conv(self.conv(x))))


def norm_twice(self, x):
    return self.act(self.norm(self.norm(self.conv(x))))


def act_twice(self, x):
    return self.act(self.norm(self.conv(self.act(x))))


def residual_of_conv(self, x):
    y = self.conv(x)
    return self.act(self.norm(y)) + y


def residual_of_norm(self, x):
    y = self.norm(self.conv(x))
    return self.act(y) + y


def view_of_conv(self, x):
    y = self.conv(x)
    part = y[:, :1]
    return self.act(self.norm(y)) * part


def changed_conv(self, x):
    return self.act(self.norm(self.conv(x).mul_(2)))


def function(self, x):
    return F.relu(self.norm(self.conv(x)))


def method_in_place(self, x):
    return self.norm(self.conv(x)).relu_()


def read_before_in_place(self, x):
    y = self.norm(self.conv(x))
    more = y * 2
    return self.act(y) + more


def read_after_in_place(self, x):
    """What is read is what the activation wrote, fused or not."""
    y = self.norm(self.conv(x))
    return self.act(y) * 2 + y


def fails_first(self, x):
    """What is put in its place would not fail."""
    with suppress(RuntimeError):
        return self.norm(x[:, :1])
    return self.act(self.norm(self.conv(x)))


def fails_before_a_read(self, x):
    with suppress(RuntimeError):
        self.conv(x[:, :1])
    y = self.conv(x)
    return self.act(self.norm(y)) + y


def dropped(self, x):
    return self.act(self.norm(F.dropout(self.conv(x), 1e-9, training=True)))


def weight_is_read(self, x):
    return self.act(self.norm(self.conv(x))) * self.norm.weight.sum()


def statistics_are_read(self, x):
    return self.act(self.norm(self.conv(x))) + F.batch_norm(x, self.norm.running_mean, self.norm.running_var)


def other_batch_statistics(self, x):
    self.norm.train()
    return self.act(self.norm(self.conv(x)))


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (twice, ()),
        (norm_twice, ()),
        (act_twice, NORM),
        (residual_of_conv, ()),
        (residual_of_norm, NORM),
        (view_of_conv, ()),
        (changed_conv, ()),
        (function, NORM),
        (method_in_place, NORM),
        (fails_first, ()),
        (fails_before_a_read, ()),
        (dropped, ()),
        (weight_is_read, ()),
        (statistics_are_read, ()),
    ],
)
def test_what_ends_a_chain(flow, expected):
    assert check(Block(flow)) == expected


def test_in_place_activations_are_read_before_and_after():
    assert check(Block(read_before_in_place, act=nn.ReLU(inplace=True))) == NORM
    assert check(Block(read_after_in_place, act=nn.ReLU(inplace=True))) == ALL
    assert check(Block(read_after_in_place)) == NORM


def returned(what):
    def flow(self, x):
        y = self.conv(x)
        z = self.norm(y)
        return {"out": self.act(z), "more": [(y, z)[what]]}

    return flow


def stashed(what):
    def flow(self, x):
        y = self.conv(x)
        z = self.norm(y)
        self.last = (y, z)[what]
        return self.act(z)

    return flow


@pytest.mark.parametrize("kept", [returned, stashed])
def test_what_is_kept_is_not_fused_away(kept):
    assert find_fusions(Block(kept(0)), IMAGE) == ()
    assert find_fusions(Block(kept(1)), IMAGE) == NORM


def test_what_only_a_cycle_keeps_is_not_kept():
    def flow(self, x):
        y = self.conv(x)
        cycle = [y]
        cycle.append(cycle)
        return self.act(self.norm(y))

    gc.disable()
    try:
        assert find_fusions(Block(flow), IMAGE) == ALL
    finally:
        gc.enable()


def test_a_model_keeps_nothing_of_a_run():
    """The weak references of one run do not stand in the way of the next."""
    model = Block(plain)
    assert find_fusions(model, (IMAGE,)) == find_fusions(model, {"x": IMAGE}) == ALL


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.SyncBatchNorm(4).eval(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_other_norms_are_not_folded(norm):
    assert find_fusions(Block(plain, norm=norm), IMAGE) == ()


def test_batch_statistics_in_eval_mode_are_not_folded():
    assert find_fusions(Block(other_batch_statistics), IMAGE) == ()


class Conv(nn.Conv2d):
    """Another class may do anything."""


class Norm(nn.BatchNorm2d):
    """So may this one."""


class Act(nn.ReLU):
    """And this."""


def test_other_classes_are_left_alone():
    assert check(Block(plain, Conv(4, 4, 3))) == ()
    assert check(Block(plain, norm=Norm(4))) == ()
    assert check(Block(plain, act=Act())) == check(Block(plain, act=nn.ReLU6())) == NORM


HOOKS = {
    "register_forward_hook": lambda module, args, output: None,
    "register_forward_pre_hook": lambda module, args: None,
    "register_full_backward_hook": lambda module, before, after: None,
    "register_full_backward_pre_hook": lambda module, after: None,
}


@pytest.mark.parametrize("name", HOOKS)
def test_layers_with_hooks_are_left_alone(name):
    for layer, expected in (("conv", ()), ("norm", ()), ("act", NORM)):
        model = Block(plain)
        getattr(getattr(model, layer), name)(HOOKS[name])
        assert find_fusions(model, IMAGE) == expected


def test_a_forward_of_its_own_is_left_alone():
    for layer, expected in (("conv", ()), ("norm", ()), ("act", NORM)):
        model = Block(plain)
        part = getattr(model, layer)
        part.forward = part.forward
        assert find_fusions(model, IMAGE) == expected


def test_shared_layers_are_left_alone():
    """Another branch may call it, on other inputs."""
    for layer, expected in (("conv", ()), ("norm", ()), ("act", NORM)):
        model = Block(plain)
        model.also = getattr(model, layer)
        assert find_fusions(model, IMAGE) == expected


def test_shared_parameters_are_left_alone():
    first, second = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    assert len(find_fusions(nn.Sequential(first, second), IMAGE)) == 2
    second[0].weight = first[0].weight
    assert find_fusions(nn.Sequential(first, second), IMAGE) == ()


class Pointer(nn.Module):
    """Reads its input in a way that no operator sees."""

    def forward(self, x):
        self.address = x.data_ptr()
        return torch.zeros(())


@pytest.mark.parametrize("between", [Pointer(), nn.Dropout(), nn.Identity()], ids=lambda layer: type(layer).__name__)
def test_a_layer_that_gets_the_result_reads_it(between):
    def flow(self, x):
        y = self.conv(x)
        self.between(y)
        return self.act(self.norm(y))

    model = Block(flow)
    model.between = between
    assert check(model) == ()


def test_what_overflows_is_not_folded():
    model = Block(plain).to(torch.bfloat16)
    assert find_fusions(model, IMAGE.bfloat16()) == ALL
    model.norm.running_var[2] = torch.inf
    assert find_fusions(model, IMAGE.bfloat16()) == ALL  # a scale of 0
    model.norm.weight.data[1] = 3e38
    model.norm.running_var[1] = 1e-30
    assert find_fusions(model, IMAGE.bfloat16()) == ()


def test_folding_is_rounded_once():
    conv, norm = nn.Conv2d(4, 4, 3, dtype=torch.bfloat16), shaken(nn.Sequential(nn.BatchNorm2d(4)))[0]
    weight, bias = folded(conv, norm)
    exact = folded(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    assert weight.dtype == bias.dtype == torch.bfloat16
    assert torch.equal(weight, exact[0].bfloat16())
    assert torch.equal(bias, exact[1].bfloat16())
    assert not weight.requires_grad
    assert not bias.requires_grad


def test_folding_keeps_zeros():
    conv, norm = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, eps=0.0)
    keep = torch.rand(conv.weight.shape) < 0.3
    conv.weight.data *= keep
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 0.0, 1.0]))
        norm.bias.copy_(torch.tensor([1.0, 5.0, 1.0]))
        norm.running_var[2] = 0.0  # divides by 0: what is kept becomes infinite, and zeros stay
    weight, bias = folded(conv, norm)
    assert torch.equal(weight == 0, ~keep | torch.tensor([False, True, False])[:, None, None, None])
    assert bias[1] == 5.0
    assert weight[2][keep[2]].isinf().all()


def test_what_cannot_be_folded_is_said():
    with pytest.raises(LayerError, match="expected a BatchNorm of 3 channels, got one of 4"):
        folded(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(4))
    with pytest.raises(LayerError, match="with running statistics, got one without"):
        folded(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))


def test_what_comes_in_wrong_is_said():
    model = Block(plain)
    with pytest.raises(InputError, match=r"expected what Block takes, got float32 \(2, 5, 7, 6\)"):
        find_fusions(model, torch.zeros(2, 5, 7, 6))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert find_fusions(model, IMAGE) == ALL
    with pytest.raises(LayerError, match=r"expected a torch\.nn\.Module, got int"):
        find_fusions(3, IMAGE)
    with pytest.raises(LayerError, match="gone: expected the name of a layer"):
        apply_fusion(model, Fusion("conv", "norm", "gone", "relu"), nn.Identity())
    assert isinstance(model.conv, nn.Conv2d)


def test_modes_stay_as_they_were():
    model = Block(plain).eval()
    apply_fusion(model, ALL[0], nn.Conv2d(4, 4, 3).eval())
    assert not any(module.training for module in model.modules())


def test_resnet_of_transformers():
    transformers = pytest.importorskip("transformers")
    for kind in ("basic", "bottleneck"):
        config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[8, 8], depths=[2, 1], layer_type=kind)
        model = transformers.ResNetForImageClassification(config)
        fusions = check(Logits(model), torch.randn(2, 3, 20, 20))
        convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        assert [fusion.layer for fusion in fusions] == [f"model.{name}" for name in convs]
        assert all(fusion.norm == fusion.layer.replace("convolution", "normalization") for fusion in fusions)
        # the first one, and all but the last and the shortcut of each of three layers
        activated = 1 + 3 * (1 if kind == "basic" else 2)
        assert sum(fusion.kind == "relu" for fusion in fusions) == activated


def test_mobilenet_of_transformers():
    """Its ReLU6 stays where it is."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=3)
    model = transformers.MobileNetV2ForImageClassification(config)
    fusions = find_fusions(model, {"pixel_values": torch.randn(1, 3, 32, 32)})
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert [fusion.layer for fusion in fusions] == convs
    assert {(fusion.activation, fusion.kind) for fusion in fusions} == {(None, "none")}
    assert len({fusion.norm for fusion in fusions}) == len(convs) == 52


class Logits(nn.Module):
    """A model of transformers that returns a tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits
