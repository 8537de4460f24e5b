"""Smaller networks against the masked ones, at inputs and sizes that shrinking has not seen, and shapes by hand."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Attention, Chain, Dense, Grouped, Mobile, Residual, assert_equal, shaken, weights, without
from torch import nn
from torch.nn import functional as F

import sparsekit as sk

torch.manual_seed(1)
IMAGE, OTHER, LARGE = (
    torch.randn(2, 3, 6, 6).double(),
    torch.randn(3, 3, 6, 6).double(),
    torch.randn(1, 3, 11, 9).double(),
)
TOKENS, SENTENCE = torch.randn(2, 5, 24).double(), torch.randn(1, 8, 24).double()


def constants(conv, norm, rows):
    """What filters without weights become behind the norm and a ReLU, by the formula."""
    mean, spread = norm.running_mean[rows], (norm.running_var[rows] + norm.eps).sqrt()
    return torch.relu((conv.bias[rows] - mean) / spread * norm.weight[rows] + norm.bias[rows])


@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "zeros"), (1, "reflect"), (1, "circular")])
@pytest.mark.parametrize("bias", [True, False])
def test_the_shift_of_a_filter_is_folded(padding, mode, bias):
    model = shaken(Chain(padding, mode, bias))
    gone = [0, 3, 4, 6]
    with torch.no_grad():
        model[1].bias[gone] += torch.tensor([9.0, -9.0, 7.0, 8.0])
    assert (constants(model[0], model[1], gone) > 0).tolist() == [True, False, True, True]
    masks = without(model, ("0", gone), ("3", [1, 9]))
    small = sk.shrink(model, masks, IMAGE)
    loud = 1 if mode == "zeros" and padding else 0
    assert small[0].out_channels == small[1].num_features == small[3].in_channels == 4 + loud
    assert small[3].out_channels == 8
    assert small[7].in_features == 8 * (36 if padding else 16)
    assert (small[3].bias is None) == (not bias and bool(loud))
    assert_equal(small, model, masks, IMAGE, OTHER, 5 * OTHER)


def test_zeros_need_no_border():
    model = shaken(Chain(1))
    with torch.no_grad():
        model[1].bias[[0, 3]] = -10.0
        model[0].bias[[0, 3]] = 0.0
    small = sk.shrink(model, masks := without(model, ("0", [0, 3])), IMAGE)
    assert small[0].out_channels == 6
    assert torch.equal(small[3].weight, model[3].weight[:, [1, 2, 4, 5, 6, 7]])
    assert_equal(small, model, masks, OTHER)


def test_a_stream_loses_what_all_that_write_it_have_lost():
    model = shaken(Residual())
    small = sk.shrink(model, masks := without(model, ("stem", [1, 2, 5])), IMAGE)
    assert weights(small) == weights(model)  # the block still writes there
    assert_equal(small, model, masks, OTHER, LARGE)
    masks = without(model, ("stem", [1, 2, 5]), ("second", [2, 5, 7]), ("first", [0, 1, 11]))
    small = sk.shrink(model, masks, IMAGE)
    loud = int((constants(model.stem, model.norm0, [2, 5]) > 0).any())
    assert small.stem.out_channels == small.second.out_channels == small.norm2.num_features == 6 + loud
    assert small.head.in_features == small.first.in_channels == 6 + loud
    assert (small.first.out_channels, small.second.in_channels) == (9, 9)
    assert_equal(small, model, masks, OTHER, LARGE)


def test_a_concatenation_loses_the_right_places():
    model = shaken(Dense())
    with torch.no_grad():
        for norm in (model.norms[1], model.norms[2]):
            norm.bias[7], norm.running_mean[7] = -1.0, 0.0
    readers = ["layers.0", "layers.1", "layers.2", "head"]
    masks = without(model, ("layers.0", [1]), columns=[(name, [2]) for name in readers])
    for name, place in (("layers.1", 9), ("layers.2", 9), ("head", 9), ("layers.2", 10), ("head", 10)):
        masks[f"{name}.weight"][:, place] = False
    small = sk.shrink(model, masks, IMAGE)
    assert small.stem.out_channels == small.layers[0].in_channels == 5
    assert small.layers[0].out_channels == 2  # its 1 says nothing (7 of those behind), its 3 is unread (9)
    assert small.layers[1].out_channels == 3  # its 0 is unread (10)
    assert [norm.num_features for norm in small.norms] == [5, 7, 10]
    assert small.layers[2].in_channels == 10
    assert small.head.in_features == 14
    assert_equal(small, model, masks, OTHER, LARGE)


def test_a_depthwise_layer_goes_along():
    model = shaken(Mobile())
    masks = without(
        model, ("expand", [0, 7]), ("depth", [0, 7, 9]), columns=[("project", [4, 15]), ("squeeze", [4, 15])]
    )
    small = sk.shrink(model, masks, IMAGE)
    # 4 and 15 are read by nobody; 0, 7 and 9 are constants that the gate multiplies by something that is none
    assert small.depth.groups == small.depth.in_channels == small.depth.out_channels == small.expand.out_channels == 14
    assert small.depth.weight.shape == (14, 1, 3, 3)
    assert small.excite.out_channels == small.squeeze.in_channels == small.norm2.num_features == 14
    assert_equal(small, model, masks, OTHER, LARGE)


def test_groups_stay_as_large_as_each_other():
    model = shaken(Grouped(4))  # groups of 4 inputs and 6 outputs
    rows, columns = [0, 6, 7, 12, 18], [(0, 1), (1, 0), (2, 2), (3, 3)]
    masks = without(model, ("middle", rows))
    for group, place in columns:
        masks["middle.weight"][group * 6 : group * 6 + 6, place] = False
    small = sk.shrink(model, masks, IMAGE)
    assert (small.enter.out_channels, small.middle.in_channels, small.middle.out_channels) == (12, 12, 20)
    assert (small.middle.groups, small.leave.in_channels) == (4, 20)
    assert_equal(small, model, masks, OTHER, LARGE)


def test_a_group_goes_whole():
    model = shaken(Grouped(4))
    masks = without(model, ("middle", [*range(6, 12), 0]), ("enter", range(4, 8)))
    small = sk.shrink(model, masks, IMAGE)
    assert (small.middle.groups, small.middle.in_channels, small.middle.out_channels) == (3, 12, 18)
    assert small.leave.in_channels == 18
    assert_equal(small, model, masks, OTHER, LARGE)


NETWORKS = {
    "residual": Residual,
    "dense": Dense,
    "mobile": Mobile,
    "four groups": Grouped,
    "two groups": lambda: Grouped(2),
    "chain": Chain,
    "padded chain": lambda: Chain(1),
    "chain without bias": lambda: Chain(bias=False),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.floats(0, 0.9), columns=st.sampled_from([0.0, 0.0, 0.3, 0.8]))
def test_any_masks_give_the_masked_network(network, seed, rows, columns):
    model = shaken(network())
    draw = torch.Generator().manual_seed(seed)
    masks = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            keep = torch.rand(module.weight.shape, generator=draw) > 0.05
            keep[torch.rand(keep.shape[0], generator=draw) < rows] = False
            keep[:, torch.rand(keep.shape[1], generator=draw) < columns] = False
            masks[f"{name}.weight"] = keep
    small = sk.shrink(model, masks, IMAGE)
    assert weights(small) <= weights(model) + sum(getattr(m, "out_channels", 0) for m in model.modules())
    assert_equal(small, model, masks, IMAGE, OTHER)


def heads(*numbers):
    return [6 * number + i for number in numbers for i in range(6)]


def test_heads_go_whole():
    model = shaken(Attention())
    groups = sk.pruning.coupled(model, TOKENS, sk.Head(6))
    twin = copy.deepcopy(model)
    masks = sk.prune(twin, sk.Magnitude(), sk.Head(6), 0.5, groups=groups)
    small = sk.shrink(model, masks, TOKENS)
    assert small.query.out_features == small.key.out_features == small.value.out_features == small.out.in_features == 12
    assert (small.heads, model.heads) == (2, 4)
    assert_equal(small, model, masks, TOKENS, SENTENCE)


def test_the_bias_of_a_value_without_weights_is_folded():
    model = shaken(Attention())
    small = sk.shrink(model, masks := without(model, ("value", [*heads(1), 0, 1, 23])), TOKENS)
    assert small.heads == 3
    assert small.query.out_features == small.out.in_features == 18
    assert_equal(small, model, masks, TOKENS, SENTENCE)


def test_part_of_a_head_stays():
    for model, rows in ((shaken(Attention()), [0, 1, 8]), (shaken(Attention(heads=1)), [0, 1, 8])):
        masks = without(model, *((name, rows) for name in ("query", "key", "value")), columns=[("out", rows)])
        small = sk.shrink(model, masks, TOKENS)
        assert weights(small) == weights(model)
        assert_equal(small, model, masks, SENTENCE)


@pytest.mark.parametrize("quiet", [False, True])
def test_pruned_filters_end_to_end(quiet):
    model = shaken(Residual())
    layers = ["stem", "first", "second"]
    masks = sk.prune(
        model,
        sk.FilterNorm(),
        sk.Filter(),
        0.5,
        layers=layers,
        groups=sk.pruning.coupled(model, IMAGE, sk.Filter(), layers),
    )
    if quiet:
        sk.pruning.silence(model, masks, IMAGE)
    small = sk.shrink(model, masks, IMAGE)
    assert small.stem.out_channels == small.second.out_channels == small.head.in_features == 4 + (not quiet)
    assert small.first.out_channels == 6
    assert_equal(small, model, masks, OTHER, LARGE)
    same = sk.shrink(model, None, IMAGE)  # the zeros say the same
    for one, other in zip(small.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_scale_of_zero_is_a_constant_too():
    model = shaken(Chain())
    with torch.no_grad():
        model[1].weight[[2, 5]] = 0.0
    small = sk.shrink(model, None, IMAGE)
    assert small[0].out_channels == 6
    assert_equal(small, model, {}, OTHER)


def test_a_layer_without_any_filter_keeps_one():
    model = shaken(nn.Sequential(nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 3), nn.Linear(3, 2)))
    small = sk.shrink(model, masks := without(model, ("0", range(6)), ("3", [0])), TOKENS)
    assert (small[0].out_features, small[2].out_features, small[3].out_features) == (1, 1, 2)
    assert_equal(small, model, masks, SENTENCE)


@pytest.mark.parametrize("between", [nn.PReLU(), nn.PReLU(8), nn.InstanceNorm2d(8, affine=True)], ids=str)
def test_what_works_channel_by_channel_goes_along(between):
    model = shaken(nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 6, 3)))
    small = sk.shrink(model, masks := without(model, columns=[("2", [0, 3, 5])]), IMAGE)
    assert small[0].out_channels == small[2].in_channels == 5
    assert all(value.numel() in (1, 5) for value in small[1].parameters())
    assert_equal(small, model, masks, OTHER, LARGE)


def test_part_of_a_filter_is_masked_and_stays():
    model = shaken(Residual())
    keep = torch.rand_like(model.first.weight) > 0.5
    small = sk.shrink(model, {"first.weight": keep}, IMAGE)
    state = copy.deepcopy(model.state_dict())
    state["first.weight"] *= keep
    assert list(small.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())


def test_the_model_stays_as_it_was():
    model = shaken(Residual()).train()
    model.norm1.eval()
    model.first.weight.requires_grad_(False)
    before, parts = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    small = sk.shrink(model, without(model, ("first", [0, 1])), IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parts[name] is value for name, value in model.named_parameters())
    for one in (model, small):
        assert [name for name, module in one.named_modules() if not module.training] == ["norm1"]
        assert [name for name, value in one.named_parameters() if not value.requires_grad] == ["first.weight"]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())
    assert not {id(value) for value in small.parameters()} & {id(value) for value in model.parameters()}


def test_the_result_is_a_model_like_any_other(tmp_path):
    model = shaken(Mobile())
    small = sk.shrink(model, masks := without(model, columns=[("project", [1, 2]), ("squeeze", [1, 2])]), IMAGE)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    torch.save(small.state_dict(), tmp_path / "small.pt")
    twin.load_state_dict(torch.load(tmp_path / "small.pt"))
    assert_equal(twin, model, masks, OTHER)
    F.mse_loss(small(IMAGE), torch.zeros(2, 5).double()).backward()
    assert all(value.grad is not None and value.is_leaf for value in small.parameters())
    again = sk.shrink(small, without(small, columns=[("project", [0]), ("squeeze", [0])]), IMAGE)
    assert again.depth.groups == 13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    model = shaken(Residual()).to(dtype)
    small = sk.shrink(model, without(model, ("first", [0, 1, 2])), IMAGE.to(dtype)).eval()
    assert small.first.out_channels == 9
    assert {value.dtype for value in small.parameters()} == {dtype}
    twin = sk.shrink(model, without(model, ("first", [0, 1, 2])), {"x": IMAGE.to(dtype)})
    assert torch.equal(twin.second.bias, small.second.bias)
