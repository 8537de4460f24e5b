import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.pruning import PCAS, Global, ModelView, prune
from sparsekit.pruning.seeding import generator
from sparsekit.pruning.targets import find_targets
from sparsekit.pruning.walk import surveyed


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 16, 5)
    )


def data(count=3, seed=1):
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(size + 2, 3, 4, 4, generator=source) for size in range(count)]


def loss_fn(model, x):
    return F.cross_entropy(model(x), x.sum(dim=(1, 2, 3)).gt(0).long())


def scores(model, method, batches, loss=loss_fn):
    view = ModelView(model, find_targets(model), batches, loss)
    return {target.name: method.score(target.weight.detach(), s) for target, s in surveyed(view, method.statistics())}


class Attended(nn.Module):
    """A layer with squeeze and excitation behind it, written as a module."""

    def __init__(self, layer, name, seed, reduction):
        super().__init__()
        self.layer, wide = layer, len(layer.weight)
        self.squeeze, self.excite = nn.Linear(wide, wide // reduction), nn.Linear(wide // reduction, wide)
        for part in (*self.excite.parameters(), self.squeeze.bias):
            nn.init.zeros_(part)
        first = torch.randn(wide // reduction, wide, generator=generator(seed, name), dtype=torch.float64)
        self.squeeze.weight.data = (first / wide**0.5).float()
        self.seen = []

    def forward(self, x):
        y = self.layer(x)
        pooled = F.adaptive_avg_pool2d(y, 1).flatten(1) if y.dim() == 4 else y
        attention = self.excite(self.squeeze(pooled).relu()).sigmoid()
        self.seen.append(attention.detach())
        return y * (2 * attention).reshape(*attention.shape, *[1] * (y.dim() - 2))


def test_scores_are_the_means_of_what_modules_trained_by_torch_return():
    model, batches = network(), data()
    method = PCAS(steps=7, rate=0.05, reduction=2, seed=3)
    found = scores(model, method, batches)
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for index in (0, 4):
        twin[index] = Attended(twin[index], f"{index}.weight", 3, 2)
    parts = [part for index in (0, 4) for part in (twin[index].squeeze, twin[index].excite)]
    attention = [number.requires_grad_(True) for part in parts for number in part.parameters()]
    optimizer = torch.optim.Adam(attention, lr=0.05)
    for step in range(7):
        optimizer.zero_grad()
        loss_fn(twin, batches[step % 3]).backward()
        optimizer.step()
    for index in (0, 4):
        twin[index].seen.clear()
    for x in batches:
        twin(x)
    for index in (0, 4):
        wanted = torch.cat(twin[index].seen).mean(dim=0)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(found[f"{index}.weight"].flatten(1).sum(dim=1).float(), wanted)


def test_before_training_all_channels_get_the_same():
    for score in scores(network(), PCAS(steps=0), data()).values():
        assert torch.allclose(score.flatten(1).sum(dim=1), torch.tensor(0.5, dtype=score.dtype))


def test_channels_that_harm_get_less():
    """The target leaves out half of the channels, so whatever they say is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
    nn.init.eye_(model[0].weight)
    nn.init.ones_(model[1].weight)
    x = torch.rand(64, 8)

    def loss(model, batch):
        return F.mse_loss(model(batch), batch[:, :4].sum(dim=1, keepdim=True))

    score = scores(model, PCAS(steps=200), [x], loss)["0.weight"].sum(dim=1)
    assert score[:4].min() > score[4:].max()


def test_the_model_and_the_generator_are_as_before_and_the_seed_decides():
    model = network()
    model[1].eval()
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first = scores(model, PCAS(), data())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert not any(m._forward_hooks for m in model.modules())
    torch.manual_seed(10)
    again, other = scores(model, PCAS(), data()), scores(model, PCAS(seed=1), data())
    for name, score in first.items():
        assert torch.equal(score, again[name])
        assert not torch.equal(score, other[name])


def test_tokens_are_positions_and_a_single_sample_has_no_batch():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def loss(model, batch):
        return model(batch).square().mean()

    for batch in (torch.randn(2, 7, 6), torch.randn(3, 6), torch.randn(6)):
        found = scores(model, PCAS(steps=3), [batch], loss)
        assert [tuple(score.shape) for score in found.values()] == [(8, 6), (4, 8)]
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0))
    assert scores(image, PCAS(steps=3), [torch.randn(3, 5, 5)], loss)["0.weight"].isfinite().all()


def test_prunes_globally_and_reports_a_loss_that_fails():
    masks = prune(network(), PCAS(steps=2), sparsity=0.5, allocation=Global(), batches=data(), loss_fn=loss_fn)
    assert sum(mask.nnz for mask in masks.values()) == (8 * 27 + 5 * 128) // 2
    model = network()
    with pytest.raises(CalibrationError, match=r"batches\[1\]"):
        prune(model, PCAS(), sparsity=0.5, batches=[data()[0], torch.randn(2, 4)], loss_fn=loss_fn)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"rate": 0.0}, {"reduction": 0}])
def test_settings(wrong):
    with pytest.raises(PruningError, match="PCAS: expected steps >= 0, rate > 0 and reduction >= 1"):
        PCAS(**wrong)
