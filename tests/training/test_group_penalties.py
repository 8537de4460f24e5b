"""Penalties on whole units: against loops in double precision, finite differences, and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk
from sparsekit.errors import PruningError
from sparsekit.pruning import Group, coupled


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    layer.weight.data.copy_(weight)
    return layer


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attached(model, method, pattern=None, sparsity=None, steps=10, lr=0.1, **more):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return optimizer, sk.attach(model, optimizer, method, pattern, sparsity, steps, **more)


def blocks(weight, high, wide):
    """The blocks of a matrix whose sides divide, as lists of places."""
    rows, columns = weight.shape
    return [
        [(i + a, j + b) for a in range(high) for b in range(wide)]
        for i in range(0, rows, high)
        for j in range(0, columns, wide)
    ]


PATTERNS = [
    (sk.Filter(), 1, 6),
    (sk.Channel(), 8, 1),
    (sk.Block(2, 3), 2, 3),
    (sk.Unstructured(), 1, 1),
    (sk.NM(1, 2), 1, 1),
]


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize(("pattern", "high", "wide"), PATTERNS)
def test_group_lasso_is_the_sum_of_norms_and_its_gradient_the_direction(pattern, high, wide, sized):
    weight = drawn(8, 6)
    units = blocks(weight, high, wide)
    for place in units[1]:
        weight[place] = 0.0
    model = linear(weight)
    _, run = attached(model, sk.GroupLasso(strength=0.3, sized=sized), pattern)
    penalty = run.penalty()
    (slope,) = torch.autograd.grad(penalty, model.weight)
    scale = 0.3 * (math.sqrt(high * wide) if sized else 1.0)
    total, expected = 0.0, torch.zeros_like(weight)
    for unit in units:
        norm = math.sqrt(sum(float(weight[place]) ** 2 for place in unit))
        total += scale * norm
        for place in unit:
            expected[place] = scale * weight[place] / norm if norm else 0.0
    assert float(penalty.detach()) == pytest.approx(total, rel=1e-12)
    assert torch.allclose(slope, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "method", [sk.GroupLasso(), sk.VACL(variance=0.7), sk.ModifiedHalf()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("pattern", [sk.Filter(), sk.KernelSlice(), sk.Block(2, 4), sk.Unstructured()], ids=str)
def test_gradients_are_those_of_finite_differences(method, pattern):
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).double()
    _, run = attached(model, method, pattern)
    (slope,) = torch.autograd.grad(run.penalty(), model.weight)
    flat = model.weight.data.view(-1)
    for place in range(0, flat.numel(), 7):
        here, step = float(flat[place]), 1e-6
        flat[place] = here + step
        above = float(run.penalty().detach())
        flat[place] = here - step
        below = float(run.penalty().detach())
        flat[place] = here
        assert float(slope.view(-1)[place]) == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(1e-3, 1.0), strength=st.floats(1e-2, 3.0), seed=st.integers(0, 99))
def test_the_proximal_step_takes_rate_times_strength_off_a_norm_and_stops_at_zero(rate, strength, seed):
    weight = drawn(6, 5, seed=seed)
    model = linear(weight)
    optimizer, run = attached(model, sk.GroupLasso(strength=strength, proximal=True), steps=3, lr=rate)
    (0.0 * model.weight.sum() + run.penalty()).backward()
    optimizer.step()
    for before, after in zip(weight, model.weight.detach()):
        norm = math.sqrt(sum(float(w) ** 2 for w in before))
        assert bool(after.any()) == (norm > rate * strength)
        assert torch.allclose(after, before * max(0.0, 1 - rate * strength / norm), rtol=1e-9, atol=1e-12)


def test_a_unit_is_zeroed_where_its_norm_is_the_amount_exactly():
    model = linear(torch.tensor([[3.0, 4.0], [6.0, 8.0 + 2**-40]], dtype=torch.float64))
    optimizer, _ = attached(model, sk.GroupLasso(strength=10.0, proximal=True), lr=0.5)
    for _ in range(2):  # there is no term to add, so none is missed
        (0.0 * model.weight.sum()).backward()
        optimizer.step()
    assert [bool(row.any()) for row in model.weight] == [False, True]


def test_the_proximal_step_follows_the_learning_rate_of_the_weight():
    first, second = linear(torch.ones(2, 4, dtype=torch.float64)), linear(torch.ones(2, 2, dtype=torch.float64))
    model = nn.Sequential(first, second)
    groups = [{"params": [first.weight], "lr": 0.1}, {"params": [second.weight], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    run = sk.attach(model, optimizer, sk.GroupLasso(strength=1.0, proximal=True), steps=9)
    for rates in ((0.1, 0.2), (0.05, 0.02)):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        (0.0 * first.weight.sum() + 0.0 * second.weight.sum() + run.penalty()).backward()
        optimizer.step()
    assert float(first.weight[0].detach().norm()) == pytest.approx(2.0 - 0.15, rel=1e-12)
    assert float(second.weight[0].detach().norm()) == pytest.approx(math.sqrt(2.0) - 0.22, rel=1e-12)


def test_a_proximal_method_refuses_an_optimizer_without_a_learning_rate():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    model = linear(drawn(2, 2))
    with pytest.raises(PruningError, match=r"^proximal: expected an optimizer with a learning rate"):
        sk.attach(model, Plain(model.parameters()), sk.GroupLasso(proximal=True), steps=1)


@pytest.mark.parametrize(
    "method", [sk.GroupLasso(threshold=0.1), sk.VACL(threshold=0.1), sk.ModifiedHalf(threshold=0.1)]
)
def test_without_a_sparsity_units_near_zero_go_and_one_stays(method):
    weight = torch.ones(6, 4, dtype=torch.float64)
    weight[1], weight[4], weight[2] = 0.0, 0.0999, 0.1001
    model = nn.Sequential(linear(weight), linear(torch.zeros(4, 6, dtype=torch.float64)))
    _, run = attached(model, method, sk.Filter())
    first, second = run.finish().values()
    assert first.keep.any(dim=1).tolist() == [True, False, True, True, False, True]
    assert second.keep.any(dim=1).tolist() == [True, False, False, False]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.inner, self.outer = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 8, 1),
            nn.Conv2d(8, 6, 3, padding=1),
        )
        self.double()

    def forward(self, x):
        x = self.stem(x)
        return x + self.outer(torch.relu(self.inner(x)))


def residual():
    model = Residual()
    groups = coupled(model, torch.zeros(1, 3, 5, 5, dtype=torch.float64), sk.Filter())
    assert [group.names for group in groups] == [("stem.weight", "outer.weight")]
    return model, groups


def test_vacl_is_norm_and_variance_over_the_filters_that_are_added():
    model, groups = residual()
    _, run = attached(model, sk.VACL(strength=0.2, variance=0.6, groups=groups), sparsity=0.5)
    total = 0.0
    joined = [
        torch.cat([layer.weight.detach()[i].reshape(-1) for layer in (model.stem, model.outer)]) for i in range(6)
    ]
    for group in (*joined, *model.inner.weight.detach().flatten(1)):
        values = [float(value) for value in group]
        n, mean = len(values), sum(values) / len(values)
        norm = math.sqrt(sum(value**2 for value in values))
        variance = sum((value - mean) ** 2 for value in values) / n
        total += 0.2 * math.sqrt(n) * (norm + 0.6 * math.sqrt(n) * variance)
    assert float(run.penalty().detach()) == pytest.approx(total, rel=1e-12)


def test_a_group_of_equal_values_has_no_variance_and_is_not_pushed_by_it():
    found = []
    for variance in (0.0, 5.0):
        model, groups = residual()
        for layer, value in ((model.stem, 0.3), (model.outer, 0.3), (model.inner, -0.2)):
            nn.init.constant_(layer.weight, value)
        _, run = attached(model, sk.VACL(variance=variance, groups=groups), sparsity=0.5)
        penalty = run.penalty()
        weights = [model.stem.weight, model.outer.weight, model.inner.weight]
        found.append((penalty.detach(), torch.autograd.grad(penalty, weights)))
    (plain, slopes), (more, others) = found
    assert float(more) == pytest.approx(float(plain), rel=1e-13)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(slopes, others))


@pytest.mark.parametrize("sparsity", [None, 0.5])
@pytest.mark.parametrize("allocation", [sk.Uniform(), sk.Global()])
def test_the_members_of_a_group_vanish_together(sparsity, allocation):
    model, groups = residual()
    with torch.no_grad():
        for i in (1, 3, 4):  # small in one layer only: alone, each layer would choose others
            model.stem.weight[i] *= 1e-3
            model.outer.weight[i] *= 1e-3 if sparsity is None or i != 4 else 1e-1
    _, run = attached(model, sk.VACL(groups=groups), sparsity=sparsity, allocation=allocation)
    keeps = {name: mask.keep.flatten(1).any(dim=1) for name, mask in run.finish().items()}
    assert torch.equal(keeps["stem.weight"], keeps["outer.weight"])
    assert keeps["stem.weight"].tolist() == [True, False, True, False, False, True]
    if sparsity is not None and allocation == sk.Uniform():
        assert int(keeps["inner.weight"].sum()) == 4


def test_vacl_refuses_groups_that_do_not_fit():
    model, groups = residual()
    with pytest.raises(PruningError, match=r"groups: expected stem\.weight with the run's Channel\(\), got Filter\(\)"):
        attached(model, sk.VACL(groups=groups), sk.Channel(), 0.5)
    with pytest.raises(PruningError, match=r"groups: expected names of weights that are pruned, got 'nothing'"):
        attached(model, sk.VACL(groups=(Group((("nothing", sk.Filter()),)),)), sparsity=0.5)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (sk.GroupLasso, "strength", 0.0),
        (sk.GroupLasso, "threshold", 1.5),
        (sk.VACL, "strength", -1.0),
        (sk.VACL, "threshold", -0.5),
        (sk.VACL, "variance", -1.0),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(kind, name, value):
    with pytest.raises(PruningError, match=rf"^{name}: expected .*, got {value}"):
        kind(**{name: value})
