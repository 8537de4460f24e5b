"""PartialL2: the strength is learned, and only what would go feels it."""

import math

import pytest
import torch
from torch import nn

import sparsekit as sk


def started(method, lr=1e-9, steps=400, sparsity=0.5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return model, optimizer, sk.attach(model, optimizer, method, sparsity=sparsity, steps=steps)


def smallest(model, count):
    """The mean square of the smallest weights of all, by sorting."""
    squares = sorted(float(w) ** 2 for weight in model.parameters() for w in weight.detach().flatten())
    return sum(squares[:count]) / count


def test_the_term_and_its_gradient():
    model, _, run = started(sk.PartialL2(alpha=0.3, start=1.5))
    term = run.penalty()
    assert float(term.detach()) == pytest.approx(math.exp(1.5) * smallest(model, 40) - 0.3 * 1.5, rel=1e-12)
    term.backward()
    threshold = sorted(float(w.abs()) for weight in model.parameters() for w in weight.detach().flatten())[39]
    for weight in model.parameters():
        goes = weight.detach().abs() <= threshold
        expected = torch.where(goes, 2 * math.exp(1.5) * weight.detach() / 40, 0.0)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=0)


def test_slope_of_zeta():
    """By finite differences of the paper's term, ``e^zeta * R - alpha * zeta``."""
    model, optimizer, run = started(sk.PartialL2(alpha=0.7, start=2.0))
    mean = smallest(model, 40)
    run.penalty().backward()
    optimizer.step()
    term = [math.exp(zeta) * mean - 0.7 * zeta for zeta in (2.0 - 1e-5, 2.0 + 1e-5)]
    assert float(run._state.tensors["zeta"].grad) == pytest.approx((term[1] - term[0]) / 2e-5, rel=1e-6)


def test_zeta_settles_where_the_strength_is_alpha_over_the_mean_square():
    """With weights that do not move."""
    model, optimizer, run = started(sk.PartialL2(alpha=0.05, learning_rate=0.05))
    for _ in range(399):
        optimizer.zero_grad()
        run.penalty().backward()
        optimizer.step()
    found = float(run._state.tensors["zeta"].exp())
    assert found == pytest.approx(0.05 / smallest(model, 40), rel=1e-3)


def test_the_strength_never_makes_weights_swing():
    """Pulled without a loss against it, what would go comes to zero, and its sign does not change."""
    model, optimizer, run = started(sk.PartialL2(alpha=10.0, learning_rate=1.0), lr=0.05, steps=60)
    first = [weight.detach().clone() for weight in model.parameters()]
    for _ in range(59):
        optimizer.zero_grad()
        run.penalty().backward()
        optimizer.step()
        for weight, was in zip(model.parameters(), first):
            assert (weight.detach() * was >= 0).all()
    assert smallest(model, 40) < 1e-12
    assert float(run._state.tensors["zeta"]) <= math.log(40 / (2 * 0.05)) + 1e-12


def test_nothing_to_remove_leaves_zeta_alone():
    model, optimizer, run = started(sk.PartialL2(start=3.0), sparsity=0.0)
    run.penalty().backward()
    optimizer.step()
    assert all(not weight.grad.any() for weight in model.parameters())
    assert float(run._state.tensors["zeta"]) == 3.0


@pytest.mark.parametrize("name", ["alpha", "learning_rate"])
def test_refusals(name):
    with pytest.raises(sk.PruningError, match=f"{name}: expected a number above 0, got 0"):
        sk.PartialL2(**{name: 0})
