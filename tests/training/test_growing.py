"""Growing regularization: against the counts, closed forms and equilibria that the method is defined by."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk
from sparsekit.errors import PruningError


class Weights(nn.Module):
    """Linear layers whose weights a loss may look at directly, in float64."""

    def __init__(self, *weights):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False).double() for w in weights)
        for layer, weight in zip(self.layers, weights):
            layer.weight.data.copy_(weight)

    @property
    def weights(self):
        return [layer.weight for layer in self.layers]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attached(model, method, steps, lr=0.1, sparsity=0.5, **more):
    momentum = {key: more.pop(key) for key in ("momentum", "weight_decay") if key in more}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **momentum)
    return optimizer, sk.attach(model, optimizer, method, sparsity=sparsity, steps=steps, **more)


def go(model, optimizer, run, steps, loss=lambda model: sum(w.sum() * 0.0 for w in model.weights)):
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(model) + run.penalty()).backward()
        optimizer.step()


@settings(max_examples=15, deadline=None)
@given(every=st.integers(1, 6), steps=st.integers(1, 30), delta=st.floats(1e-4, 0.1))
def test_the_factor_after_n_steps_is_delta_times_n_over_every_rounded_up(every, steps, delta):
    model = Weights(drawn(4, 4))
    before = model.weights[0].detach().clone()
    optimizer, run = attached(model, sk.GReg1(delta=delta, every=every, tau=1e6), 40)
    go(model, optimizer, run, steps)
    assert dict(run.history.series("factor", "layers.0.weight"))[steps] == delta * math.ceil(steps / every)
    picked = ~run.masks["layers.0.weight"].keep
    shrunk = math.prod(1 - 0.1 * delta * math.ceil((n + 1) / every) for n in range(steps))
    expected = torch.where(picked, before * shrunk, before)  # kept weights have no factor: not a bit of them changes
    assert torch.equal(model.weights[0][~picked], before[~picked])
    assert torch.allclose(model.weights[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("delta", "tau"), [("0.1", "0.3"), ("0.1", "1.0"), ("0.05", "0.35"), ("0.3", "1.0")])
def test_growth_stops_at_the_first_factor_above_tau_by_the_decimals_that_were_written(delta, tau):
    """0.1 + 0.1 + 0.1 is above 0.3 in floating point, and ten of them below 1."""
    model = Weights(drawn(4, 4))
    optimizer, run = attached(model, sk.GReg1(delta=float(delta), every=2, tau=float(tau), settle=50), 90)
    go(model, optimizer, run, 60)
    factors = [factor for _, factor in run.history.series("factor", "layers.0.weight")]
    growths = math.floor(Fraction(tau) / Fraction(delta)) + 1
    expected = [float(delta) * min(math.ceil(n / 2), growths) for n in range(1, 61)]
    assert factors[: 2 * growths + 20] == expected[: 2 * growths + 20]


def test_a_layer_whose_units_are_far_apart_is_finished_while_others_grow():
    """The ratio counts where units are more than one weight, starts at its first value, and is smoothed by 0.9."""
    far, near = torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    far[:2], near[:2] = 1e-4, 0.5
    for pattern, growths in ((sk.Filter(), 1), (sk.Unstructured(), 10)):
        model = Weights(far, near)
        method = sk.GReg1(delta=0.01, every=1, tau=100.0, settle=5)
        optimizer, run = attached(model, method, 100, pattern=pattern)
        go(model, optimizer, run, 10)
        factors = {name: [f for _, f in run.history.series("factor", name)] for name in run.masks}
        assert factors["layers.0.weight"] == [0.01 * min(n, growths) for n in range(1, 11)]
        assert factors["layers.1.weight"] == [0.01 * n for n in range(1, 11)]
        ratios = [ratio for _, ratio in run.history.series("ratio", "layers.1.weight")]
        if pattern == sk.Unstructured():
            assert not ratios
            continue
        size, smooth = 0.5, None
        for step in range(10):
            smooth = 1 / size if smooth is None else 0.9 * smooth + 0.1 / size
            assert ratios[step] == pytest.approx(smooth, rel=1e-12)
            size *= 1 - 0.1 * 0.01 * (step + 1)


@pytest.mark.parametrize("method", [sk.GReg1, sk.GReg2])
def test_picked_units_go_when_all_layers_have_settled_and_the_rest_trains_on(method):
    model = Weights(drawn(6, 4), drawn(5, 6, seed=1))
    more = {"delta_pick": 0.005} if method is sk.GReg2 else {}
    chosen = method(delta=0.25, every=3, tau=1.0, settle=7, **more)
    optimizer, run = attached(model, chosen, 60, lr=0.01, momentum=0.9, weight_decay=1e-2)
    finished = 3 * 4 if method is sk.GReg1 else 3 * (1 + 4)  # the first growth is at step 0; after picks it starts anew

    def loss(model):
        return sum(0.5 * (w - 1.0).square().sum() for w in model.weights)

    go(model, optimizer, run, finished + 6, loss)
    assert all(w.all() for w in model.weights)
    assert float(run.penalty().detach()) > 0
    go(model, optimizer, run, 1, loss)
    zeros = [w == 0 for w in model.weights]
    assert [int(z.sum()) for z in zeros] == [12, 15]
    before = [w.detach().clone() for w in model.weights]
    go(model, optimizer, run, 60 - run.step, loss)
    assert float(run.penalty()) == 0
    for old, weight, zero in zip(before, model.weights, zeros):
        assert torch.equal(weight == 0, zero)
        assert (weight - 1.0).abs()[~zero].max() < (old - 1.0).abs()[~zero].max()
    assert run.finish().keys() == {"layers.0.weight", "layers.1.weight"}


@pytest.mark.parametrize(
    ("tau_pick", "delta_pick"), [("1.0", "0.1"), ("0.3", "0.1"), ("0.01", "0.001"), ("0.5", "0.2")]
)
@pytest.mark.parametrize("every", [1, 3])
def test_units_are_picked_at_the_first_step_whose_factor_reaches_tau_pick(tau_pick, delta_pick, every):
    """Summed up in floating point, ten times 0.1 stay below 1, and the choice comes one growth late."""
    model = Weights(drawn(4, 4))
    method = sk.GReg2(tau=2.0, tau_pick=float(tau_pick), delta_pick=float(delta_pick), delta=0.1, every=every)
    optimizer, run = attached(model, method, 100)
    due = every * (math.ceil(Fraction(tau_pick) / Fraction(delta_pick)) - 1)  # the index of the step, from 0
    go(model, optimizer, run, due)
    assert run.sparsity == 0
    go(model, optimizer, run, 1)
    assert run.sparsity == 0.5
    reached = float(delta_pick) * (due // every + 1)
    assert run.history.series("factor", "layers.0.weight")[-1][1] == reached
    go(model, optimizer, run, every)
    assert run.history.series("factor", "layers.0.weight")[-1][1] == pytest.approx(reached + 0.1, rel=1e-15)


def test_greg2_removes_the_smallest_curvature():
    """Under a factor that rises slowly, SGD follows ``h w* / (h + factor)``; all ``w*`` are equal at the start."""
    curvature = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)[
        torch.randperm(16, generator=torch.Generator().manual_seed(0))
    ]
    curvature = curvature.reshape(4, 4)
    model = Weights(torch.ones(4, 4, dtype=torch.float64))
    optimizer, run = attached(model, sk.GReg2(tau_pick=0.5, delta_pick=0.01, every=20), 2000, lr=0.3)

    def loss(model):
        return 0.5 * (curvature * (model.weights[0] - 1.0).square()).sum()

    go(model, optimizer, run, 20 * 49, loss)
    assert torch.allclose(model.weights[0], curvature / (curvature + 0.49), rtol=5e-3, atol=0)
    go(model, optimizer, run, 1, loss)
    assert torch.equal(run.masks["layers.0.weight"].keep, curvature > curvature.median())


def test_with_equal_curvature_greg2_picks_by_magnitude():
    start = drawn(8, 8)
    model = Weights(start)
    optimizer, run = attached(model, sk.GReg2(tau_pick=0.5, picking=0.5), 200, sparsity=0.7)
    go(model, optimizer, run, 200, lambda model: 0.5 * (model.weights[0] - start).square().sum())
    assert torch.equal(run.finish()["layers.0.weight"].keep, sk.Unstructured().select(start.abs(), 0.7))


@pytest.mark.parametrize("pattern", [sk.Unstructured(), sk.Filter(), sk.NM(2, 4), sk.Block(4, 3)])
@pytest.mark.parametrize("method", [sk.GReg1(delta=0.3, every=1, tau=9), sk.GReg2(delta=0.3, every=1, tau=9)])
def test_the_added_gradient_is_the_factor_times_the_weight_to_the_bit(pattern, method):
    model = Weights(drawn(8, 10))
    (weight,) = model.weights
    sparsity = None if pattern.fixes_sparsity else 0.5
    optimizer, run = attached(model, method, 20, pattern=pattern, sparsity=sparsity)
    go(model, optimizer, run, 5)
    (added,) = torch.autograd.grad(run.penalty(), weight)
    keep = run.masks["layers.0.weight"].keep
    high = 0.3 * 6 if isinstance(method, sk.GReg1) else 0.01 + 0.3 * 5
    low = 0.0 if isinstance(method, sk.GReg1) else -1e-4
    assert 0 < int(keep.sum()) < keep.numel()
    assert torch.equal(added, torch.where(keep, low, torch.tensor(high, dtype=torch.float64)) * weight.detach())


@pytest.mark.parametrize("recover", [-1e-2, 1e-2, 0.0])
def test_kept_weights_recover_by_a_constant_factor_until_the_removal(recover):
    model = Weights(drawn(4, 4))
    start = model.weights[0].detach().clone()
    method = sk.GReg2(delta=0.1, delta_pick=0.01, every=1, recover=recover, settle=5)
    optimizer, run = attached(model, method, 60)
    go(model, optimizer, run, 40)
    keep = run.masks["layers.0.weight"].keep
    steps = 1 + 10 + 4  # picked at the first; ten growths after it; the steps that settle, of which that was one
    assert torch.allclose(model.weights[0][keep], start[keep] * (1 - 0.1 * recover) ** steps, rtol=1e-12, atol=0)
    assert not model.weights[0][~keep].any()


@pytest.mark.parametrize("method", [sk.GReg1(), sk.GReg2()])
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 333, 1000])
def test_without_arguments_a_run_of_any_length_grows_settles_and_fine_tunes(method, steps):
    model = Weights(drawn(4, 8))
    optimizer, run = attached(model, method, steps)
    zero = None
    for step in range(steps):
        go(model, optimizer, run, 1)
        if zero is None and not model.weights[0].all():
            zero = step + 1
    assert int((model.weights[0] == 0).sum()) == 16
    if steps >= 100:
        assert 0.65 * steps <= zero <= 0.75 * steps
        assert 1.0 < max(factor for _, factor in run.history.series("factor", "layers.0.weight")) < 1.03


@pytest.mark.parametrize("method", [sk.GReg1(delta=1e-4, every=10), sk.GReg2(delta=1e-4, delta_pick=1e-5, every=10)])
def test_a_run_that_ends_before_the_growth_does_removes_what_is_picked_or_picks_then(method):
    model = Weights(drawn(6, 6))
    start = model.weights[0].detach().clone()
    optimizer, run = attached(model, method, 20, sparsity=0.75)
    go(model, optimizer, run, 19)
    assert model.weights[0].all()
    go(model, optimizer, run, 1)
    assert torch.equal(model.weights[0] != 0, sk.Unstructured().select(start.abs(), 0.75))


@pytest.mark.parametrize(("kind", "removed"), [(sk.GReg1, 3), (sk.GReg2, 6)])
def test_a_layer_that_loses_nothing_does_not_hold_up_the_others_and_is_left_alone(kind, removed):
    """The other one is finished at its first growth, for its kept units are larger; GReg2 picks in the third step."""
    model = Weights(drawn(4, 4), drawn(4, 4, seed=1))
    shares = sk.PerLayer({"layers.0.weight": 0.0, "layers.1.weight": 0.5})
    method = kind(settle=3, limit=1.0)
    optimizer, run = attached(model, method, 50, sparsity=None, allocation=shares, pattern=sk.Filter())
    go(model, optimizer, run, min(3, removed - 1))
    before = model.weights[0].detach().clone()
    assert all(weight.all() for weight in model.weights)
    go(model, optimizer, run, removed - run.step)
    assert [int((w == 0).sum()) for w in model.weights] == [0, 8]
    assert torch.equal(model.weights[0], before)


def test_asking_for_the_penalty_twice_grows_factors_once():
    model = Weights(drawn(4, 4))
    optimizer, run = attached(model, sk.GReg1(delta=0.1, every=1), 10)
    first, again = run.penalty(), run.penalty()
    assert torch.equal(first, again)
    go(model, optimizer, run, 3)
    assert run.history.series("factor", "layers.0.weight")[-1][1] == 0.1 * 3


PATTERNS = [sk.Block(4, 3), sk.KernelSlice(), sk.NM(2, 4), sk.Filter(), sk.Channel(), sk.Head(2), sk.Head(2, axis=1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("method", [sk.GReg1(), sk.GReg2()])
def test_units_of_a_convolution_go_by_their_mean_magnitude_and_legally(method, pattern, dtype):
    torch.manual_seed(0)
    model = nn.Conv2d(6, 9, 3).to(dtype)
    start = model.weight.detach().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity = None if pattern.fixes_sparsity else 0.5
    run = sk.attach(model, optimizer, method, pattern, sparsity, 40)
    for _ in range(40):
        optimizer.zero_grad()
        (0.0 * model.weight.sum() + run.penalty()).backward()
        optimizer.step()
    mask = run.finish()["weight"]  # a Mask refuses what is not legal
    if isinstance(method, sk.GReg1):
        assert torch.equal(mask.keep, pattern.select(start.abs(), sparsity))
    assert torch.equal(mask.keep, model.weight != 0)


@pytest.mark.parametrize("kind", [sk.GReg1, sk.GReg2])
@pytest.mark.parametrize(
    ("name", "value"),
    [("delta", 0.0), ("every", 0), ("tau", -1.0), ("settle", 0), ("growing", 1.5), ("growing", 0.0), ("limit", 0.0)],
)
def test_what_makes_no_sense_is_refused_by_name(kind, name, value):
    with pytest.raises(PruningError, match=rf"^{name}: expected .*, got {value}"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("delta_pick", 0.0), ("tau_pick", 1.0), ("picking", 2), ("recover", math.inf)]
)
def test_what_makes_no_sense_before_the_choice_is_refused_by_name(name, value):
    with pytest.raises(PruningError, match=rf"^{name}: expected .*, got {value}"):
        sk.GReg2(**{name: value})
