"""Penalties on single weights: what they add, where they are smooth, and what they do to a quadratic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk
from sparsekit.errors import PruningError


def layer(weight):
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    made.weight.data.copy_(weight)
    return made


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attached(model, method, sparsity=0.5, steps=20, lr=1e-3, **more):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return optimizer, sk.attach(model, optimizer, method, sparsity=sparsity, steps=steps, **more)


def step(model, optimizer, run, target):
    optimizer.zero_grad()
    (0.5 * (model.weight - target).square().sum() + run.penalty()).backward()
    optimizer.step()


def test_selective_decay_grows_by_the_same_factor_from_its_start_to_its_stop():
    model = layer(drawn(4, 4))
    optimizer, run = attached(model, sk.SelectiveWeightDecay(decay=5e-4, start=0.1, stop=1e5), steps=7)
    for _ in range(7):
        step(model, optimizer, run, drawn(4, 4))
    factors = [factor for _, factor in run.history.series("factor")]
    assert factors[0] == pytest.approx(5e-4 * 0.1, rel=1e-15)
    assert factors[-1] == pytest.approx(5e-4 * 1e5, rel=1e-15)
    assert factors == pytest.approx([5e-5 * 10.0**n for n in range(7)], rel=1e-12)


@pytest.mark.parametrize("pattern", [sk.Unstructured(), sk.NM(2, 4), sk.Filter()])
def test_selective_decay_adds_the_factor_times_what_would_go_and_nothing_to_what_stays(pattern):
    model = layer(drawn(8, 8))
    target = drawn(8, 8, seed=1)
    sparsity = None if pattern.fixes_sparsity else 0.5
    optimizer, run = attached(model, sk.SelectiveWeightDecay(), sparsity, pattern=pattern)
    for done in range(20):
        (added,) = torch.autograd.grad(run.penalty(), model.weight)
        keep = pattern.select(model.weight.detach().abs(), sparsity)
        factor = 5e-4 * 0.1 * 1e6 ** (done / 19)
        assert torch.equal(run.masks["weight"].keep, keep)
        assert not added[keep].any()
        assert torch.allclose(added[~keep], factor * model.weight[~keep], rtol=1e-12, atol=0)
        step(model, optimizer, run, target)


@pytest.mark.parametrize("lr", [1e-3, 0.02, 0.1, 0.3])
def test_the_decayed_part_of_a_quadratic_shrinks_as_the_factor_grows_at_any_learning_rate(lr):
    """At the paper's last factor of 50, a rate of 0.1 would take five times the weight off it, again and again."""
    target = torch.cat([torch.linspace(0.1, 0.2, 8), torch.linspace(1.0, 2.0, 8)]).double().reshape(4, 4)
    small = target < 0.5
    model = layer(target)
    optimizer, run = attached(model, sk.SelectiveWeightDecay(), steps=40, lr=lr)
    before = size = float(target[small].norm())
    for done in range(39):
        factor = 5e-4 * 0.1 * 1e6 ** (done / 39)
        step(model, optimizer, run, target)
        now = float(model.weight[small].detach().norm())
        if lr * (1 + factor) < 1:
            assert now < before
        elif done == 38:  # the quadratic brings back lr * target in a step, and the decay takes that off in the next
            assert now < 1.01 * lr * size
        before = now
    assert float(model.weight[~small].detach().sub(target[~small]).abs().max()) == 0


def test_a_criterion_that_compares_within_rows_does_so_here():
    class RowMagnitude(sk.Magnitude):
        by_row = True

    model = layer(drawn(4, 8) * torch.tensor([[1.0], [10.0], [100.0], [1000.0]], dtype=torch.float64))
    method = sk.SelectiveWeightDecay(criterion=RowMagnitude())
    _, run = attached(model, method, allocation=sk.Uniform(), steps=1)
    run.penalty()
    assert run.masks["weight"].keep.sum(dim=1).tolist() == [4, 4, 4, 4]
    assert run.finish()["weight"].keep.sum(dim=1).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("method", [sk.SelectiveWeightDecay(), sk.ModifiedHalf()])
def test_layers_are_ranked_together_and_none_loses_everything(method):
    model = nn.Sequential(layer(0.01 * drawn(8, 8)), layer(drawn(8, 8, seed=1)))
    _, run = attached(model, method, steps=1, pattern=sk.Filter())
    assert [int(mask.keep.any(dim=1).sum()) for mask in run.finish().values()] == [1, 7]


@given(a=st.floats(1e-6, 10.0))
def test_the_modified_root_is_smooth_at_a_and_finite_at_zero(a):
    method = sk.ModifiedHalf(a=a)
    places = torch.tensor([0.0, a * (1 - 1e-9), a, a * (1 + 1e-9)], dtype=torch.float64, requires_grad=True)
    values = method.value(places)
    (slopes,) = torch.autograd.grad(values.sum(), places)
    assert float(values[0].detach()) == 0.0
    assert values[1:].detach().tolist() == pytest.approx([math.sqrt(a) / 2] * 3, rel=1e-8)
    assert slopes.tolist() == pytest.approx([0.5 / math.sqrt(a)] * 4, rel=1e-8)


@given(a=st.floats(1e-4, 1.0), x=st.floats(0.0, 4.0))
def test_beyond_a_it_is_the_root_and_below_a_line(a, x):
    found = float(sk.ModifiedHalf(a=a).value(torch.tensor([x], dtype=torch.float64)))
    assert found == pytest.approx(math.sqrt(x) - math.sqrt(a) / 2 if x >= a else x / (2 * math.sqrt(a)), rel=1e-12)


def test_the_penalty_counts_each_weight_and_pushes_none_that_is_zero():
    weight = drawn(4, 6) * 0.05
    weight[0, 0] = 0.0
    model = layer(weight)
    _, run = attached(model, sk.ModifiedHalf(strength=0.3, a=0.02))
    penalty = run.penalty()
    (slope,) = torch.autograd.grad(penalty, model.weight)
    values = [abs(float(w)) for w in weight.reshape(-1)]
    total = sum(math.sqrt(x) - math.sqrt(0.02) / 2 if x >= 0.02 else x / (2 * math.sqrt(0.02)) for x in values)
    assert float(penalty.detach()) == pytest.approx(0.3 * total, rel=1e-12)
    expected = 0.3 * weight.sign() / (2 * weight.abs().clamp(min=0.02).sqrt())
    assert torch.allclose(slope, expected, rtol=1e-12, atol=0)


def test_larger_units_count_by_their_root_mean_square_once_per_weight():
    weight = drawn(5, 6) * 0.05
    _, run = attached(layer(weight), sk.ModifiedHalf(strength=0.3, a=0.05), pattern=sk.Filter(), sparsity=0.4)
    total = 0.0
    for row in weight:
        x = math.sqrt(sum(float(w) ** 2 for w in row) / 6)
        total += 6 * (math.sqrt(x) - math.sqrt(0.05) / 2 if x >= 0.05 else x / (2 * math.sqrt(0.05)))
    assert float(run.penalty().detach()) == pytest.approx(0.3 * total, rel=1e-12)


def test_denoising_is_sparser_than_by_the_lasso_that_shrinks_large_values_as_much():
    """The proximal point of a signal of ones and noise, by brute force over a grid for each value."""
    noise = 0.15 * drawn(200)
    signal = torch.cat([noise, torch.ones(20, dtype=torch.float64)])
    grid = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    method = sk.ModifiedHalf(a=0.01)
    misfit = 0.5 * (signal[:, None] - grid).square()
    modified = grid[(misfit + 0.1 * method.value(grid.abs())).argmin(dim=1)]
    slope = 0.1 / (2 * math.sqrt(float(modified[-1])))
    lasso = grid[(misfit + slope * grid.abs()).argmin(dim=1)]
    assert float(lasso[-1]) == pytest.approx(float(modified[-1]), abs=2e-3)
    zeros = [int((found[:200].abs() < 1e-9).sum()) for found in (modified, lasso)]
    assert zeros[0] > 1.5 * zeros[1]


def test_what_is_at_most_the_threshold_goes_where_no_sparsity_is_given():
    weight = torch.tensor([[0.5, 0.01, -0.01], [0.0, -0.011, 0.3]], dtype=torch.float64)
    for threshold, kept in ((None, [[1, 0, 0], [0, 1, 1]]), (0.011, [[1, 0, 0], [0, 0, 1]])):
        _, run = attached(layer(weight), sk.ModifiedHalf(a=0.01, threshold=threshold), sparsity=None)
        assert run.finish()["weight"].keep.tolist() == torch.tensor(kept).bool().tolist()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(sk.ModifiedHalf, "strength"), (sk.ModifiedHalf, "a"), (sk.ModifiedHalf, "threshold")]
    + [(sk.SelectiveWeightDecay, name) for name in ("decay", "start", "stop")],
)
def test_what_makes_no_sense_is_refused_by_name(kind, name):
    with pytest.raises(PruningError, match=rf"^{name}: expected a number above 0, got 0"):
        kind(**{name: 0.0})
