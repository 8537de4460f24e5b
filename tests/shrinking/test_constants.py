"""Which inputs are constants: against the formula, and never one that depends on the input."""

import copy

import pytest
import torch
from small_networks import shaken
from torch import nn
from torch.nn import functional as F

from sparsekit.shrinking.constants import read_constants


class Apply(nn.Module):
    """A convolution, a function, a 1 x 1 convolution that reads its result."""

    def __init__(self, function, width=4):
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 4, 1), nn.Conv2d(width, 2, 1), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def read(function, width=4, gone=(1, 3)):
    model = shaken(Apply(function, width)).eval()
    with torch.no_grad():
        model.first.weight[list(gone)] = 0.0
    values = read_constants(copy.deepcopy(model), torch.randn(2, 3, 6, 6).double()).values["last"]
    seen = []
    handle = model.last.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for seed in range(4):
        torch.manual_seed(seed)
        model(torch.randn(2, 3, 6, 6).double() * 3)
    handle.remove()
    rows = torch.cat([x.movedim(1, -1).flatten(0, 2) for x in seen])
    return values, rows


FUNCTIONS = """relu relu6 gelu silu elu selu celu leaky_relu hardswish hardsigmoid hardtanh mish softplus softsign
sigmoid tanh tanhshrink softshrink hardshrink""".split()
MOVES = {
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "mean pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "stretch": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "arithmetic": lambda x: (x * 3 - 1).clamp(-2, 2) / 0.7 + x.square(),
    "in place": lambda x: x.clone().mul_(2).add_(1).relu_(),
    "turned": lambda x: x.transpose(2, 3).flip(2).contiguous(),
}


@pytest.mark.parametrize("function", [*(getattr(F, name) for name in FUNCTIONS), *MOVES.values()])
def test_constants_are_carried_along(function):
    values, rows = read(function)
    assert values.isnan().tolist() == [True, False, True, False]
    torch.testing.assert_close(rows[:, [1, 3]], values[[1, 3]].expand(len(rows), 2), rtol=1e-12, atol=1e-12)


UNKNOWN = {
    "lost": lambda x: x.nan_to_num(5.0),
    "sign": lambda x: x.sign() * 0,
    "greatest of two": lambda x: torch.fmax(x, torch.full_like(x, -100.0)),
    "chosen by a comparison": lambda x: torch.where(x > 0, 1.0, 0.5).to(x),
    "counted": lambda x: (x > 0).to(x),
    "sorted": lambda x: x.sort(dim=1).values,
    "softmax": lambda x: x.softmax(dim=1),
    "border": lambda x: F.pad(x, (1, 1, 1, 1)),
    "mean with a border": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "mixed": lambda x: x.sum(1, keepdim=True).expand(-1, 4, -1, -1),
    "noise": lambda x: x + torch.rand_like(x),
    "looked up": lambda x: F.embedding((x > 0).long()[:, 0], torch.ones(2, 4).to(x)).movedim(-1, 1),
}


@pytest.mark.parametrize("function", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_a_constant_that_may_change(function):
    values, _ = read(function)
    assert bool(values.isnan().all())


def test_products_carry_only_what_they_read():
    weight = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 1.0]]).double()
    for product in (
        lambda x: F.conv2d(x, weight[:, :, None, None]),
        lambda x: (x.movedim(1, -1) @ weight.T).movedim(-1, 1),
    ):
        values, rows = read(product, width=2)
        assert values.isnan().tolist() == [True, False]
        torch.testing.assert_close(rows[:, 1], values[1].expand(len(rows)))


def nothing(x):
    return x


def to_one_pixel(x):
    return x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("before", [nothing, to_one_pixel])
def test_a_border_of_zeros_leaves_no_constant_but_zero(before):
    weight = torch.zeros(3, 4, 3, 3).double()
    weight[0, 1], weight[1, 3] = 1.0, 1.0  # reads a constant; reads a zero; reads nothing
    scale = torch.tensor([1.0, 1, 1, 0]).double()[:, None, None]
    values, _ = read(lambda x: F.conv2d(before(x) * scale, weight, padding=1), width=3)
    assert values.isnan().tolist() == [True, False, False]
    assert values[1:].tolist() == [0.0, 0.0]
    pooled, _ = read(lambda x: F.avg_pool2d(before(x), 3, 1, 1))
    assert bool(pooled.isnan().all())


@pytest.mark.parametrize("masked", [False, True])
def test_attention_takes_means_over_tokens(masked):
    mask = torch.ones(36, 36, dtype=torch.bool).tril() if masked else None

    def attend(x):
        value = x.flatten(2).transpose(1, 2).contiguous()
        query = torch.roll(value, 1, 2)
        mixed = F.scaled_dot_product_attention(query[:, None], query[:, None], value[:, None], mask)
        return mixed[:, 0].transpose(1, 2).unflatten(2, (6, 6))

    values, rows = read(attend)
    assert values.isnan().tolist() == [True, masked, True, masked]
    if not masked:
        torch.testing.assert_close(rows[:, [1, 3]], values[[1, 3]].expand(len(rows), 2))
