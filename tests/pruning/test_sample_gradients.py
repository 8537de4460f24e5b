import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.batches import call_model
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics import ModelView, SampleGradients, inputs
from sparsekit.pruning.statistics import samples as module
from sparsekit.pruning.targets import find_targets


def loss_fn(model, batch):
    """The mean over samples of something that is not linear in any output."""
    output = call_model(model, batch)
    return (output.flatten(1) * torch.linspace(0.5, 2, output[0].numel())).sin().cumsum(dim=1).exp().mean(dim=1).mean()


def loop(model, names, batches):
    """A backward pass per sample of one: the oracle."""
    found = {name: [] for name in names}
    parameters = dict(model.named_parameters())
    model.eval()
    for batch in batches:
        for i in range(len(batch)):
            gradients = torch.autograd.grad(loss_fn(model, batch[i : i + 1]), [parameters[n] for n in names])
            for name, gradient in zip(names, gradients):
                found[name].append(gradient)
    return {name: torch.stack(gradients) for name, gradients in found.items()}


def collect(model, batches):
    return SampleGradients.collect(ModelView(model, find_targets(model), batches, loss_fn))


class Twice(nn.Module):
    """One layer used twice, and its weight once more by another layer."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.relu_(self.one(torch.tanh(self.one(x)))))


class Functional(nn.Module):
    """A weight that a hook sees once, and that is used twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight)


class Folded(nn.Module):
    """Tokens and samples in one dimension, as windows of vision models have them."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.layer(x.flatten(0, 1)).tanh().reshape(len(x), -1, 6))


class Attention(nn.Module):
    """Its output projection is a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, (3, 2), groups=2, padding=(2, 1), padding_mode="reflect", dilation=(1, 2)),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)), (5,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(7, 3)), (6, 5)),
    "four dimensions": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), (2, 3, 5)),
    "convolutions": (convolutions, (4, 9, 8)),
    "tied": (Twice, (3, 5)),
    "functional": (Functional, (5,)),
    "folded": (Folded, (3, 5)),
    "attention": (Attention, (3, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_equal_a_loop_over_samples(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    batches = [torch.randn(n, *shape, dtype=torch.float64) for n in (4, 1, 3)]
    model.train()(torch.cat(batches))  # running averages that are not 0 and 1
    found = collect(model, batches)
    expected = loop(model, list(found), batches)
    for target, stat in found.items():
        torch.testing.assert_close(stat.samples, expected[target], rtol=1e-9, atol=1e-12)
        assert stat.counts.tolist() == [1] * 8
        torch.testing.assert_close(stat.mean, expected[target].mean(dim=0))


@pytest.mark.parametrize(("name", "passes"), [*((name, 2) for name in list(MODELS)[:5]), ("functional", 9)])
def test_a_pass_per_batch_is_enough_where_samples_come_first(name, passes):
    """A sum that is not the batch's gradient would fall back to a pass per sample, right but slow."""
    make, shape = MODELS[name]
    model, calls = make(), []
    model(torch.randn(2, *shape))

    def counted(model, batch):
        calls.append(len(batch))
        return loss_fn(model, batch)

    batches = [torch.randn(4, *shape), torch.randn(3, *shape)]
    SampleGradients.collect(ModelView(model, find_targets(model), batches, counted))
    assert len(calls) == passes


def test_parts_of_a_convolution_s_patches_add_up(monkeypatch):
    torch.manual_seed(0)
    model, batch = nn.Conv2d(2, 4, 3, groups=2), torch.randn(5, 2, 6, 6)
    whole = collect(model, [batch])["weight"].samples
    monkeypatch.setattr(inputs, "UNFOLDED_NUMBERS", 2 * batch[0].numel() * 9)
    torch.testing.assert_close(collect(model, [batch])["weight"].samples, whole)


def test_neighbours_share_a_row_beyond_the_room(monkeypatch):
    torch.manual_seed(0)
    model, batches = nn.Linear(3, 2), [torch.randn(5, 3), torch.randn(5, 3)]
    every = collect(model, batches)["weight"]
    monkeypatch.setattr(module, "MOST", 4)
    (target,) = find_targets(model)
    assert SampleGradients.footprint(target, batches) == 4 * 6 * 4
    found = collect(model, batches)["weight"]
    assert found.counts.tolist() == [3, 2, 3, 2]
    sums = torch.stack([part.sum(dim=0) / len(part) ** 0.5 for part in every.samples.split([3, 2, 3, 2])])
    torch.testing.assert_close(found.samples, sums)
    torch.testing.assert_close(found.mean, every.mean)
    monkeypatch.setattr(module, "ROOM", 3 * 24)
    monkeypatch.setattr(module, "LEAST", 1)
    assert SampleGradients.footprint(target, batches) == 3 * 24


def test_a_batch_that_cannot_be_cut_counts_as_one():
    """Queries per sample, and keys that all share: the gradients are known as a sum only."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, queries, keys):
            return queries @ self.layer(keys).T

    model, batch = Model(), (torch.randn(6, 4), torch.randn(3, 4))
    stat = collect(model, [batch])["layer.weight"]
    (expected,) = torch.autograd.grad(loss_fn(model, batch), [model.layer.weight])
    assert stat.counts.tolist() == [6]
    torch.testing.assert_close(stat.samples[0] * 6**0.5 / 6, expected)
    torch.testing.assert_close(stat.mean, expected)


def test_the_model_is_left_as_it_was():
    model = convolutions()
    model(torch.randn(2, 4, 9, 8))
    model[0].bias.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, [torch.randn(3, 4, 9, 8)])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[0].bias.requires_grad
    assert model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in model.modules())


def test_a_layer_without_influence_is_named():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    with pytest.raises(CalibrationError, match=r"unused\.weight: expected a loss that depends on it"):
        collect(Blind(), [torch.randn(4, 3)])
