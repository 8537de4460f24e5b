"""What cannot be shrunk is refused in a sentence that names the layer, and the model stays as it was."""

import copy
from pathlib import Path

import pytest
import torch
from small_networks import Residual, assert_equal, shaken, weights, without
from torch import nn

import sparsekit as sk

IMAGE = torch.randn(2, 3, 6, 6).double()


class Between(nn.Module):
    """Two layers and something between them that mixes channels."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.between = between

    def forward(self, x):
        return self.last(self.second(self.between(self.first(x))))


class Flattened(nn.Module):
    """Channels last, then flattened: torch-pruning takes the channels for the outer index."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8 * 36, 2)

    def forward(self, x):
        return self.last(self.first(x).permute(0, 2, 3, 1).flatten(1))


def shuffled(x):
    return x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)


UNFOLLOWED = {
    "sorting": (lambda: Between(lambda x: x.sort(dim=1).values), "first: .*sort, which cannot be followed"),
    "a softmax over channels": (lambda: Between(lambda x: x.softmax(dim=1)), "first: .*change of up to"),
    "a mean over channels": (lambda: Between(lambda x: x - x.mean(1, keepdim=True)), "first: .*change of up to"),
    "a shuffle": (lambda: Between(shuffled), "first: .*torch-pruning finds other channels"),
    "flattened with channels last": (Flattened, "first: .*torch-pruning finds other channels"),
    "a fixed number of channels": (
        lambda: Between(lambda x: x.view(-1, 8, 36).view(-1, 8, 6, 6)),
        "first: .*runs, got",
    ),
}


@pytest.mark.parametrize(("network", "match"), UNFOLLOWED.values(), ids=UNFOLLOWED)
def test_what_cannot_be_followed_is_refused(network, match):
    model = shaken(network())
    before = copy.deepcopy(model.state_dict())
    follower = "second" if hasattr(model, "second") else "last"
    masks = without(model, ("first", [1, 2]))
    masks[f"{follower}.weight"] = torch.ones_like(model.get_submodule(follower).weight, dtype=torch.bool)
    masks[f"{follower}.weight"][:, torch.arange(masks[f"{follower}.weight"].shape[1]) % 8 < 4] = False
    if follower == "last":
        masks["last.weight"][:] = False
    with pytest.raises(sk.PruningError, match=match):
        sk.shrink(model, masks, IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sk.shrink(model, {}, IMAGE)  # without removed channels it does not matter


class Shift(nn.Module):
    """Adds a number per channel that no layer owns."""

    def __init__(self, value):
        super().__init__()
        if isinstance(value, nn.Parameter):
            self.value = value
        else:
            self.register_buffer("value", value)

    def forward(self, x):
        return x + self.value


KEPT = {
    "group norm": lambda: Between(nn.GroupNorm(2, 8)),
    "a buffer": lambda: Between(Shift(torch.randn(8, 1, 1))),
    "a parameter": lambda: Between(Shift(nn.Parameter(torch.randn(8, 1, 1)))),
    "statistics of a sample": lambda: Between(nn.InstanceNorm2d(8, track_running_stats=True)),
    "a border of channels": lambda: Between(lambda x: nn.functional.pad(x[:, :6], (0, 0, 0, 0, 1, 1))),
    "halves": lambda: Between(lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1)),
}


@pytest.mark.parametrize("network", KEPT.values(), ids=KEPT)
def test_what_has_to_keep_its_channels_keeps_them(network):
    model = shaken(network())
    masks = without(model, ("first", [1, 2]), ("last", [0]), columns=[("second", [1, 2, 5, 6])])
    small = sk.shrink(model, masks, IMAGE)
    assert weights(small) == weights(model)
    assert_equal(small, model, masks, IMAGE)


class Sharing(nn.Module):
    """A layer that runs twice, a weight with two owners, one used past its layer, and a parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.act = nn.Linear(24, 8), nn.Linear(8, 8), nn.PReLU()
        self.one, self.other, self.past = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.scale, self.last = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

    def forward(self, x):
        x = self.act(self.twice(self.act(self.twice(self.act(self.first(x))))))
        x = self.act(self.other(self.one(x)))
        return self.last(nn.functional.linear(x, self.past.weight) * self.scale)


def test_shared_layers_stay():
    model, tokens = shaken(Sharing()), torch.randn(3, 24).double()
    masks = {f"{name}.weight": torch.ones(8, 8, dtype=torch.bool) for name in ("twice", "one", "past")}
    for keep in masks.values():
        keep[:3], keep[:, :3] = False, False
    masks |= without(model, ("first", [0, 1, 2]))
    small = sk.shrink(model, masks, tokens)
    assert weights(small) == weights(model)
    assert small.one.weight is small.other.weight
    assert_equal(small, model, masks, tokens)


class Searched(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).argmax(1)


def meta():
    return Residual().to("meta")


FULL = torch.ones(8, 3, 3, 3, dtype=torch.bool)
BAD = {
    "an unknown name": (
        Residual,
        {"stem.wieght": FULL},
        IMAGE.float(),
        sk.LayerError,
        "stem.wieght; did you mean stem.weight",
    ),
    "another layer's mask": (
        Residual,
        {"first.weight": FULL},
        IMAGE.float(),
        sk.MaskError,
        r"first.weight: .*\(12, 8, 3, 3\)",
    ),
    "numbers": (Residual, {"stem.weight": FULL.float()}, IMAGE.float(), sk.MaskError, "stem.weight: .*bool"),
    "a list": (Residual, [FULL], IMAGE.float(), sk.MaskError, "by parameter name, got a list"),
    "no data": (meta, {}, IMAGE.float(), sk.LayerError, "stem.weight: .*meta"),
    "no model": (lambda: "model", {}, IMAGE, sk.LayerError, "got str"),
    "a lazy layer": (lambda: nn.LazyLinear(3), {}, IMAGE, sk.LayerError, "weight: .*lazy"),
    "another input": (Residual, {}, torch.randn(2, 4, 6, 6), sk.InputError, r"float32 \(2, 4, 6, 6\)"),
    "a branch": (
        lambda: Between(lambda x: x if x.sum() > 0 else -x),
        {},
        IMAGE.float(),
        sk.PruningError,
        "asks for a tensor's value",
    ),
    "no numbers out": (
        lambda: Searched(3, 2, 1),
        {},
        IMAGE.float(),
        sk.PruningError,
        "none of its outputs has a gradient",
    ),
}


@pytest.mark.parametrize(("network", "masks", "example", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(network, masks, example, error, match):
    with pytest.raises(error, match=match) as caught:
        sk.shrink(network(), masks, example)
    assert "\n" not in str(caught.value)


def test_torch_pruning_is_loaded_when_it_is_needed():
    """It takes a second that ``import sparsekit`` does not have."""
    sources = list((Path(sk.__file__).parent / "shrinking").glob("*.py"))
    lines = [line for path in sources for line in path.read_text().splitlines() if "import torch_pruning" in line]
    lines += [line for path in sources for line in path.read_text().splitlines() if "from torch_pruning" in line]
    assert len(lines) == 3
    assert all(line.startswith("    ") for line in lines)
