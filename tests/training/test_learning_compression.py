"""LearningCompression: its projections are the nearest points, and weights and their sparse copies meet."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

import sparsekit as sk
from sparsekit.training.penalties.projections import hard_threshold, onto_l1_ball, soft_threshold

VALUES = st.lists(st.floats(-3, 3, allow_nan=False, width=32), min_size=1, max_size=10)
POSITIVE = st.floats(0.01, 3)


def supports(n):
    return [np.array(bits, dtype=bool) for bits in itertools.product([False, True], repeat=n)]


@settings(max_examples=25, deadline=None)
@given(VALUES, POSITIVE, POSITIVE)
def test_hard_threshold_against_every_support(values, alpha, mu):
    near = np.array(values)
    best = min(alpha * keep.sum() + mu / 2 * (near[~keep] ** 2).sum() for keep in supports(len(near)))
    found = hard_threshold(torch.tensor(near), math.sqrt(2 * alpha / mu)).numpy()
    cost = alpha * np.count_nonzero(found) + mu / 2 * ((near - found) ** 2).sum()
    assert cost == pytest.approx(best, rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(VALUES, POSITIVE, POSITIVE)
def test_soft_threshold_against_a_grid_and_the_slopes(values, alpha, mu):
    found = soft_threshold(torch.tensor(values, dtype=torch.float64), alpha / mu).numpy()

    def cost(x, near):
        return alpha * np.abs(x) + mu / 2 * (near - x) ** 2

    grid = np.linspace(-3, 3, 2001)
    for x, near in zip(found, values):
        assert cost(x, near) <= cost(grid, near).min() + 1e-12
        slope = mu * (x - near)
        assert abs(slope) <= alpha + 1e-9 if x == 0 else slope == pytest.approx(-alpha * np.sign(x), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.floats(0, 12))
def test_l1_ball_against_every_support(values, radius):
    """On the face of a support the nearest point is a shift; the nearest of all that are in the ball is the answer."""
    near = np.array(values)
    found = onto_l1_ball(torch.tensor(near), radius).numpy()
    assert np.abs(found).sum() <= radius + 1e-9
    if np.abs(near).sum() <= radius:
        assert (found == near).all()
        return
    best = np.inf
    for keep in supports(len(near)):
        point = np.zeros_like(near)
        if keep.any():
            shift = (np.abs(near[keep]).sum() - radius) / keep.sum()
            size = np.abs(near[keep]) - shift
            if (size < 0).any():
                continue
            point[keep] = np.sign(near[keep]) * size
        if np.abs(point).sum() <= radius + 1e-9:
            best = min(best, ((near - point) ** 2).sum())
    assert ((near - found) ** 2).sum() == pytest.approx(best, rel=1e-7, abs=1e-9)


def test_l1_ball_against_a_solver():
    near = np.random.default_rng(0).normal(size=6)
    split = minimize(  # x = p - q
        lambda pq: ((pq[:6] - pq[6:] - near) ** 2).sum(),
        np.full(12, 0.01),
        bounds=[(0, None)] * 12,
        constraints={"type": "ineq", "fun": lambda pq: 1.5 - pq.sum()},
        options={"ftol": 1e-14, "maxiter": 500},
    ).x
    np.testing.assert_allclose(onto_l1_ball(torch.tensor(near), 1.5).numpy(), split[:6] - split[6:], atol=1e-5)


def quadratic(method, target, pattern=None, sparsity=None, lr=0.5, steps=400):
    """A layer with the loss ``|w - target|^2 / 2``, trained to the end of its run but for the last step."""
    target = torch.as_tensor(target, dtype=torch.float64)
    layer = nn.Linear(target.shape[1], target.shape[0], bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(target)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    run = sk.attach(layer, optimizer, method, pattern, sparsity, steps=steps)

    def step():
        optimizer.zero_grad()
        (0.5 * (layer.weight - target).square().sum() + run.penalty()).backward()
        optimizer.step()

    return layer, run, step


@pytest.mark.parametrize("count", [1, 4, 9])
def test_l0_projection_against_every_support(count):
    target = torch.randn(2, 5, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    _, run, _ = quadratic(sk.LearningCompression(), target, sparsity=1 - count / 10)
    theta = run._state.sites[0].tensors["theta"].numpy().ravel()
    near = target.numpy().ravel()
    best = min((near[~keep] ** 2).sum() for keep in supports(10) if keep.sum() == count)
    assert np.count_nonzero(theta) == count
    assert ((near - theta) ** 2).sum() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("pattern", [sk.Filter(), sk.Channel(), sk.Block(2, 2)], ids=str)
def test_l0_projection_of_units_against_every_choice(pattern):
    target = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, run, _ = quadratic(sk.LearningCompression(), target, pattern, 0.5)
    theta = run._state.sites[0].tensors["theta"]
    choices = [pattern.spread(torch.tensor(bits).reshape(pattern.grid((4, 4))), (4, 4)) for bits in supports(4)]
    best = min(float(target[~keep].square().sum()) for keep in choices if int(keep.sum()) == 8)
    assert float((target - theta).square().sum()) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("projection", ["l0 penalty", "l1 penalty"])
def test_theta_minimises_the_penalty_and_the_distance(projection):
    target = torch.randn(2, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    _, run, _ = quadratic(sk.LearningCompression(projection, mu=0.5, alpha=0.2), target)
    grid = torch.cat([torch.linspace(-3, 3, 6001, dtype=torch.float64), torch.zeros(1), target.flatten()])

    def cost(theta, near):
        price = (theta != 0).double() if projection == "l0 penalty" else theta.abs()
        return 0.2 * price + 0.25 * (theta - near).square()

    found = cost(run._state.sites[0].tensors["theta"].flatten(), target.flatten())
    best = cost(grid[:, None], target.flatten()[None]).min(dim=0).values
    assert (found <= best + 1e-12).all()


def test_the_learning_step_has_a_closed_form():
    """Between two projections, gradient descent ends at ``(target + mu * theta + multiplier) / (1 + mu)``."""
    target = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    layer, run, step = quadratic(sk.LearningCompression(mu=0.7, growth=1.0, every=101), target, sparsity=0.5)
    memory = run._state.sites[0].tensors
    for _ in range(2):
        theta, multiplier = memory["theta"].clone(), memory["multiplier"].clone()
        for _ in range(100):
            step()
        torch.testing.assert_close(layer.weight.detach(), (target + 0.7 * theta + multiplier) / 1.7)
        step()
        torch.testing.assert_close(memory["multiplier"], multiplier - 0.7 * (layer.weight.detach() - memory["theta"]))
    assert memory["multiplier"].abs().max() > 0.1


@pytest.mark.parametrize("projection", ["l0", "l0 penalty", "l1 penalty", "l1 ball"])
def test_weights_and_theta_meet_as_mu_grows(projection):
    target = torch.randn(4, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    sparsity = 0.5 if projection == "l0" else None
    method = sk.LearningCompression(projection, mu=0.05, growth=1.18, every=15, alpha=0.3, radius=0.6)
    layer, run, step = quadratic(method, target, sparsity=sparsity, lr=0.25)
    for _ in range(399):
        step()
    gaps = [gap for _, gap in run.history.series("gap", "weight")]
    assert gaps[-1] < 1e-2 < gaps[0] / 50, gaps
    mus = [mu for _, mu in run.history.series("mu")]
    assert mus[-1] == pytest.approx(0.05 * 1.18**25)
    step()
    keep = run.finish()["weight"].keep
    assert 0 < int((~keep).sum()) < 20
    solution = {
        "l0": target * (target.abs() >= target.abs().flatten().kthvalue(11).values),
        "l1 penalty": soft_threshold(target, 0.3),
        "l1 ball": onto_l1_ball(target, float(0.6 * target.abs().sum())),
    }
    if projection in solution:  # of the loss with the constraint, which is the projection of the target
        torch.testing.assert_close(layer.weight.detach(), solution[projection], atol=2e-2, rtol=0)
    assert torch.equal(layer.weight.detach(), run._state.sites[0].tensors["theta"])


def test_a_sparsity_is_met_whatever_the_projection():
    target = torch.randn(4, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for projection in ("l0 penalty", "l1 penalty", "l1 ball"):
        _, run, step = quadratic(sk.LearningCompression(projection), target, sparsity=0.75, steps=3)
        for _ in range(3):
            step()
        assert run.finish()["weight"].nnz == 5


def test_refusals():
    with pytest.raises(sk.PruningError, match=r"projection: expected one of 'l0', 'l0 penalty', .* got 'l2'"):
        sk.LearningCompression("l2")
    with pytest.raises(sk.PruningError, match=r"growth: expected a factor of at least 1, got 0\.5"):
        sk.LearningCompression(growth=0.5)
    with pytest.raises(sk.PruningError, match=r"weight: .* needs Unstructured\(\), not Filter\(\)"):
        quadratic(sk.LearningCompression("l1 ball"), torch.ones(4, 4), sk.Filter())
    with pytest.raises(sk.PatternError, match=r"expects a fraction of zeros in \[0, 1\), got None"):
        quadratic(sk.LearningCompression(), torch.ones(4, 4))
