"""Supermasks: fixed weights, learned probabilities."""

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.training.gates.base import gates_of


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8)).to(dtype)


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 12, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.stack([inputs[:, k : k + 4].sum(1).tanh() for k in range(8)], dim=1)


def train(model, optimizer, steps, look=lambda: None):
    inputs, targets = data(next(model.parameters()).dtype)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        look()
    return losses


@pytest.mark.parametrize("make", [lambda w: torch.optim.SGD(w, 0.1, 0.9, weight_decay=0.1), torch.optim.AdamW])
@pytest.mark.parametrize("sparsity", [0.5, None])
@pytest.mark.parametrize("pattern", [sk.Unstructured(), sk.Block(4, 4), sk.NM(2, 4)], ids=str)
def test_weights_never_change(make, sparsity, pattern):
    model = network()
    first = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = make(model.parameters())
    sparsity = None if pattern.fixes_sparsity else sparsity
    run = sk.attach(model, optimizer, sk.Supermask(), pattern=pattern, sparsity=sparsity, steps=30)

    def look():
        for site in run._state.sites:
            weight, wanted = model.get_parameter(site.name), first[site.name]
            assert torch.equal(weight, torch.where(weight == 0, 0, wanted))

    train(model, optimizer, 30, look)
    for name, mask in run.finish().items():
        assert torch.equal(model.get_parameter(name).detach(), first[name] * mask.keep)
        assert pattern.admits(mask.keep)
        if sparsity:
            assert mask.sparsity == 0.5
    assert not torch.equal(model[0].bias, first["0.bias"])


def test_the_mask_is_drawn_with_the_learned_probability():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sk.Supermask(learning_rate=1e-12)
    run = sk.attach(model, optimizer, method, sparsity=0.5, steps=10**6)
    site = run._state.sites[0]
    scores = torch.linspace(-3, 3, 8)
    gates_of(site)["score"].copy_(scores)
    kept = torch.zeros(8)
    draws = 4000
    for _ in range(draws):
        method.show(run._state)
        kept += (model.weight != 0).flatten()
    chance = 1 / (1 + torch.exp(-scores))
    deviation = (chance * (1 - chance) / draws).sqrt()
    assert ((kept / draws - chance).abs() < 4 * deviation).all()


@pytest.mark.parametrize("rescale", [False, True])
def test_a_score_gets_the_gradient_of_its_probability(rescale):
    """One step from a known draw: v moves by -lr * sum(g * w) * sigmoid'(v) over the weights of its unit."""
    model = nn.Linear(8, 4, bias=False).double()
    weight = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = sk.Supermask(learning_rate=0.5, momentum=0.0, start=0.3, rescale=rescale)
    run = sk.attach(model, optimizer, method, pattern=sk.Block(2, 4), sparsity=0.5, steps=9)
    inputs = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = model.weight.detach().clone().requires_grad_()
    (inputs @ drawn.T).sin().sum().backward()
    model(inputs).sin().sum().backward()
    kept = (drawn != 0).sum()
    assert 0 < kept < 32
    optimizer.step()
    chance = 1 / (1 + torch.exp(torch.tensor(-0.3, dtype=torch.float64)))
    scale = 32 / kept if rescale else 1.0
    slopes = (drawn.grad * weight * scale).reshape(2, 2, 2, 4).sum((1, 3)).flatten() * chance * (1 - chance)
    found = gates_of(run._state.sites[0])["score"]
    assert torch.allclose(found, 0.3 - 0.5 * slopes, rtol=0, atol=1e-12)


def test_signed_constants_keep_sign_and_deviation_of_the_layer():
    model = network(torch.float64)
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.Supermask(signed_constant=True), sparsity=0.5, steps=5)
    train(model, optimizer, 5)
    for name, mask in run.finish().items():
        weight = first[name]
        deviation = (weight - weight.mean()).square().mean().sqrt()
        assert torch.allclose(model.get_parameter(name)[mask.keep], weight.sign()[mask.keep] * deviation)


def test_what_is_kept_is_rescaled_by_how_much_is_gone():
    model = network()
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.Supermask(rescale=True), sparsity=0.75, steps=5)
    for name in ("0.weight", "2.weight"):
        drawn = model.get_parameter(name)
        scale = drawn.numel() / (drawn != 0).sum()
        assert torch.allclose(drawn[drawn != 0], scale * first[name][drawn != 0])
    train(model, optimizer, 5)
    for name, mask in run.finish().items():
        assert torch.allclose(model.get_parameter(name).detach(), 4.0 * first[name] * mask.keep)


@pytest.mark.parametrize("allocation", [sk.Uniform(), sk.Global()])
def test_the_largest_scores_stay(allocation):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.Supermask(), pattern=sk.Filter(), sparsity=0.5, allocation=allocation, steps=9)
    train(model, optimizer, 7)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)) + 1.0
    scores = {"0.weight": order[:32], "2.weight": order[32:]}
    for site in run._state.sites:
        gates_of(site)["score"].copy_(scores[site.name])
    with run.evaluating():
        shown = {name: model.get_parameter(name).detach().clone() for name in scores}
    every = torch.cat(list(scores.values())).sort().values
    for name, mask in run.finish().items():
        ranked = scores[name].sort().values if allocation == sk.Uniform() else every
        wanted = scores[name] >= ranked[ranked.numel() // 2]
        assert torch.equal(mask.keep[:, 0], wanted)
        assert torch.equal(model.get_parameter(name).detach(), shown[name])


def test_a_mask_is_found_that_is_better_than_chance():
    """Of untrained weights alone: biases and weights stay as they are."""
    model = network()
    model[0].bias.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([model[0].weight, model[2].weight], lr=0.1)
    run = sk.attach(model, optimizer, sk.Supermask(learning_rate=20.0), steps=150)
    losses = train(model, optimizer, 150)
    masks = run.finish()
    inputs, targets = data()
    assert (model(inputs) - targets).square().mean() < 0.7 * losses[0]
    assert 0.2 < masks["0.weight"].sparsity < 0.8


def test_what_cannot_be_is_refused():
    with pytest.raises(sk.PruningError, match="momentum"):
        sk.Supermask(momentum=1.0)
    with pytest.raises(sk.PruningError, match="learning_rate"):
        sk.Supermask(learning_rate=0.0)
