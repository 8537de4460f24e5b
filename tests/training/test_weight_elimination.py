"""WeightElimination: a price that is the same for all large weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk


def started(weight, method, pattern=None, sparsity=None, steps=10):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    return layer, sk.attach(layer, optimizer, method, pattern, sparsity, steps=steps), optimizer


def pull(weights, strength, w0):
    layer, run, _ = started([weights], sk.WeightElimination(strength, w0), sparsity=0.0)
    run.penalty().backward()
    return layer.weight.grad[0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(1e-3, 2), st.floats(0.05, 3))
def test_gradient_in_closed_form(weights, strength, w0):
    expected = [2 * strength * (w / w0**2) / (1 + w**2 / w0**2) ** 2 for w in weights]
    torch.testing.assert_close(pull(weights, strength, w0), torch.tensor(expected, dtype=torch.float64))


def test_the_pull_is_strongest_at_w0_over_root_three():
    weights = torch.linspace(0.01, 2.0, 4001, dtype=torch.float64)
    strongest = float(weights[pull(weights.tolist(), 1.0, 0.5).argmax()])
    assert strongest == pytest.approx(0.5 / math.sqrt(3), abs=1e-3)


def test_large_weights_cost_the_strength_each():
    _, run, _ = started([[1e4, -1e4, 1e5, 0.0]], sk.WeightElimination(0.25, w0=1.0), sparsity=0.0)
    assert float(run.penalty().detach()) == pytest.approx(3 * 0.25, rel=1e-7)


def test_the_scale_is_that_of_each_layer_at_the_start():
    layer, run, _ = started([[3.0, 4.0], [0.0, 0.0]], sk.WeightElimination(1.0), sparsity=0.0)
    mean = 25 / 4
    expected = sum(w * w / mean / (1 + w * w / mean) for w in (3.0, 4.0))
    assert float(run.penalty().detach()) == pytest.approx(expected, rel=1e-12)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    expected = sum(w * w / mean / (1 + w * w / mean) for w in (6.0, 8.0))
    assert float(run.penalty().detach()) == pytest.approx(expected, rel=1e-12)


def test_without_a_sparsity_small_units_go():
    method = sk.WeightElimination(w0=1.0, threshold=0.5)
    _, run, _ = started([[0.49, 0.51], [-0.49, -2.0]], method)
    assert run.masks["weight"].keep.tolist() == [[False, True], [False, True]]
    _, run, _ = started([[0.49, 0.52], [-0.3, -0.4]], method, sk.Filter())  # roots of mean squares 0.505 and 0.35
    assert run.finish()["weight"].keep.tolist() == [[True, True], [False, False]]


def test_small_weights_decay_and_large_ones_stay():
    """Alone, the gradient takes weights below the scale to zero, and leaves those far above it."""
    layer, run, optimizer = started([[0.05, -0.1, 3.0, -4.0]], sk.WeightElimination(1.0, w0=0.2), steps=200)
    for _ in range(200):
        optimizer.zero_grad()
        run.penalty().backward()
        optimizer.step()
    assert run.finish()["weight"].keep.tolist() == [[False, False, True, True]]
    torch.testing.assert_close(layer.weight.detach()[0, 2:], torch.tensor([3.0, -4.0]).double(), atol=0.01, rtol=0)


def test_a_layer_of_zeros_has_a_scale():
    layer, run, _ = started(torch.zeros(2, 2), sk.WeightElimination(), sparsity=0.5)
    run.penalty().backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("settings", [{"strength": 0}, {"w0": 0}, {"threshold": 1.5}])
def test_refusals(settings):
    with pytest.raises(sk.PruningError, match=f"{next(iter(settings))}: expected"):
        sk.WeightElimination(**settings)
