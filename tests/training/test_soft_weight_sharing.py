"""SoftWeightSharing: against the densities and responsibilities that scipy computes."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from torch import nn

import sparsekit as sk

NAMES = ("mean", "log_deviation", "logit")


def started(weight, method, sparsity=0.5, lr=1e-9, steps=500):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    run = sk.attach(layer, optimizer, method, sparsity=sparsity, steps=steps)
    return layer, run, optimizer, run._state.sites[0]


def random_weight(seed=0, rows=4, columns=5):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(site):
    return {name: site.tensors[name].numpy().copy() for name in NAMES}, float(site.tensors["scale"])


def log_joint(weight, mixture, scale, zero_share):
    """Logarithms of share times density, ``(components, weights)``, by scipy."""
    shares = np.concatenate([[np.log(zero_share)], np.log(1 - zero_share) + log_softmax(mixture["logit"])])
    means = np.concatenate([[0.0], mixture["mean"] * scale])
    deviations = np.exp(mixture["log_deviation"]) * scale
    return np.stack([s + norm.logpdf(weight.ravel(), m, d) for s, m, d in zip(shares, means, deviations)])


def disturbed(site):
    """Move the mixture away from its symmetric start."""
    generator = torch.Generator().manual_seed(9)
    for name in NAMES:
        value = site.tensors[name]
        value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("components", [2, 5])
def test_term_and_gradient_are_those_of_the_mixture(components):
    layer, run, _, site = started(random_weight(), sk.SoftWeightSharing(components, 0.8, strength=0.01))
    disturbed(site)
    mixture, scale = read(site)
    weight = layer.weight.detach().numpy().ravel()
    joint = log_joint(weight, mixture, scale, 0.8)
    term = run.penalty()
    assert float(term.detach()) == pytest.approx(-0.01 * logsumexp(joint, axis=0).sum(), rel=1e-12)
    term.backward()
    shares = np.exp(joint - logsumexp(joint, axis=0))
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, rtol=1e-12)
    means = np.concatenate([[0.0], mixture["mean"] * scale])[:, None]
    deviations = (np.exp(mixture["log_deviation"]) * scale)[:, None]
    expected = 0.01 * (shares * (weight - means) / deviations**2).sum(axis=0)
    np.testing.assert_allclose(layer.weight.grad.numpy().ravel(), expected, rtol=1e-10)


def test_slopes_of_the_mixture_by_finite_differences():
    layer, run, optimizer, site = started(random_weight(1), sk.SoftWeightSharing(3, 0.7))
    disturbed(site)
    mixture, scale = read(site)
    weight = layer.weight.detach().numpy()
    run.penalty().backward()
    optimizer.step()
    for name in NAMES:
        for index in range(len(mixture[name])):
            ends = []
            for sign in (-1, 1):
                moved = {key: value.copy() for key, value in mixture.items()}
                moved[name][index] += sign * 1e-5
                ends.append(-logsumexp(log_joint(weight, moved, scale, 0.7), axis=0).mean())
            slope = float(site.tensors[name].grad[index])
            assert slope == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-5, abs=1e-8)


def test_the_mixture_finds_the_clusters_and_the_component_at_zero_stays():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([0.0, 0.0, 1.0, -0.6], dtype=torch.float64).repeat(50)
    weight = centres + 0.02 * torch.randn(200, generator=generator, dtype=torch.float64)
    method = sk.SoftWeightSharing(3, 0.5, learning_rate=0.02)
    _, run, optimizer, site = started(weight[None], method, sparsity=None)
    fits = []
    for _ in range(499):
        optimizer.zero_grad()
        term = run.penalty()
        fits.append(float(term.detach()))
        term.backward()
        optimizer.step()
    mixture, scale = read(site)
    np.testing.assert_allclose(sorted(mixture["mean"] * scale), [-0.6, 1.0], atol=0.02)
    assert np.exp(mixture["log_deviation"][0]) * scale == pytest.approx(0.05 * scale, rel=1e-6), "at the floor"
    assert fits[-1] < fits[0]
    keep = run.finish()["weight"].keep[0]
    assert torch.equal(keep, centres != 0)


def test_no_component_is_too_narrow_and_none_narrower_than_that_at_zero():
    layer, run, optimizer, site = started(random_weight(2), sk.SoftWeightSharing(strength=0.1, floor=1e-3), lr=0.1)
    site.tensors["log_deviation"].copy_(torch.tensor([2.0, -9.0, -0.5, 1.0, 1.0]))
    layer.weight.grad = torch.zeros_like(layer.weight)
    run.penalty()
    optimizer.step()
    deviations = site.tensors["log_deviation"].exp() * site.tensors["scale"]
    assert float(deviations[1]) == pytest.approx(0.1, rel=1e-12), "the root of learning rate times strength"
    assert float(deviations[0]) == float(deviations.min())


def test_far_weights_have_finite_terms():
    layer, run, _, site = started([[1e6, -1e6, 0.0, 1e-12]], sk.SoftWeightSharing())
    site.tensors["log_deviation"].fill_(-12.0)
    term = run.penalty()
    term.backward()
    assert torch.isfinite(term.detach())
    assert torch.isfinite(layer.weight.grad).all()


def test_without_a_sparsity_goes_what_the_component_at_zero_claims_most():
    weight = random_weight(3, 8, 8)
    _, run, _, site = started(weight, sk.SoftWeightSharing(4, 0.6), sparsity=None)
    disturbed(site)
    mixture, scale = read(site)
    claimed = log_joint(weight.numpy(), mixture, scale, 0.6).argmax(axis=0) == 0
    keep = run.masks["weight"].keep.numpy().ravel()
    assert 0 < claimed.sum() < 64
    np.testing.assert_array_equal(keep, ~claimed)
    _, run, _, _ = started(weight, sk.SoftWeightSharing(4, 0.6), sparsity=0.5)
    assert run.finish()["weight"].nnz == 32


@pytest.mark.parametrize("settings", [{"components": 1}, {"zero_share": 1.0}, {"strength": 0}, {"floor": -1}])
def test_refusals(settings):
    with pytest.raises(sk.PruningError, match=f"{next(iter(settings))}: expected"):
        sk.SoftWeightSharing(**settings)
