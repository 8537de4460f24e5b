"""AutoBalanced: what the weak lose, the strong gain."""

import math

import pytest
import torch
from torch import nn

import sparsekit as sk


def attached(rows, sparsity, alpha=0.02, pattern=None):
    """A linear layer without bias whose filters are ``rows``, and its run."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows, dtype=torch.float64))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    return layer, sk.attach(layer, optimizer, sk.AutoBalanced(alpha), pattern, sparsity, steps=50), optimizer


def naive_factors(norms, stay):
    """The paper's factors, filter by filter, given how many stay."""
    theta = sorted(norms, reverse=True)[stay - 1]
    return [1 + math.log(theta / m) if m < theta else -1 - math.log(m / theta) for m in norms]


@pytest.mark.parametrize("pattern", [None, sk.Channel(), sk.Block(2, 2), sk.Unstructured(), sk.NM(2, 4)], ids=str)
def test_the_term_is_zero_and_its_gradient_is_not(pattern):
    rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).tolist()
    layer, run, _ = attached(rows, None if pattern == sk.NM(2, 4) else 0.5, pattern=pattern)
    term = run.penalty()
    term.backward()
    assert abs(float(term.detach())) < 1e-14
    keep = run.masks["weight"].keep
    assert (layer.weight.grad * layer.weight > 0)[~keep].all(), "what would go shrinks"
    assert (layer.weight.grad * layer.weight < 0)[keep].all(), "what stays grows"


def test_gradient_equals_the_formula():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).tolist()
    layer, run, _ = attached(rows, 0.5, alpha=0.3)
    run.penalty().backward()
    factors = naive_factors([sum(map(abs, row)) for row in rows], 3)
    energies = [factor * sum(w * w for w in row) for factor, row in zip(factors, rows)]
    weak, strong = (sum(e for e in energies if (e > 0) == sign) for sign in (True, False))
    tau = -0.3 * weak / strong
    expected = [[2 * (0.3 if factor > 0 else tau) * factor * w for w in row] for factor, row in zip(factors, rows)]
    torch.testing.assert_close(layer.weight.grad, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("distance", [1e-3, 1e-6])
def test_the_factor_changes_sign_at_theta(distance):
    """Just below theta the factor is 1, just above it -1: a jump of 2 without a slope."""
    layer, run, _ = attached([[1.0, 1.0], [1.0 - distance, 1.0], [5.0, 0.0], [0.1, 0.0]], 0.5, alpha=1.0)
    run.penalty().backward()
    tau = run._state.notes["tau"]["weight"]
    pull = layer.weight.grad[:, 0] / (2 * layer.weight.detach()[:, 0])
    assert float(pull[1]) == pytest.approx(1.0, abs=2 * distance)
    assert float(pull[0] / tau) == pytest.approx(-1.0, abs=1e-12)
    assert run._state.notes["theta"]["weight"] == 2.0


def test_weak_filters_shrink_and_strong_ones_grow():
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2)).tolist()
    layer, run, optimizer = attached(rows, 0.5, alpha=0.1)
    before = layer.weight.detach().norm(dim=1)
    for _ in range(49):
        optimizer.zero_grad()
        run.penalty().backward()
        optimizer.step()
    after, keep = layer.weight.detach().norm(dim=1), run.masks["weight"].keep[:, 0]
    assert (after[keep] > before[keep]).all()
    assert (after[~keep] < 0.5 * before[~keep]).all()


def test_filters_of_zeros_and_layers_without_a_loss_do_not_fail():
    for sparsity in (0.0, 0.5, 0.99):
        layer, run, _ = attached([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]], sparsity)
        run.penalty().backward()
        assert torch.isfinite(layer.weight.grad).all()


def test_nothing_stays_nothing_is_rewarded():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.AutoBalanced(), sparsity=2 / 3, steps=5, allocation=sk.Global())
    term = run.penalty()
    assert not run.masks["0.weight"].keep.any()
    assert float(term.detach()) == pytest.approx(0.02 * 12 * 0.01**2, rel=1e-5)


def test_refusal():
    with pytest.raises(sk.PruningError, match="alpha: expected a number above 0, got -1"):
        sk.AutoBalanced(alpha=-1)
