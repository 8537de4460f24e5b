"""Pruning in rounds: nested masks, replayed learning rates, weights that go back."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk

METHODS = [sk.IterativePruning(), sk.LearningRateRewinding(), sk.LotteryTicket()]


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 8)).to(dtype)


def batches(count, dtype=torch.float32):
    """As many batches, each with its own numbers."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(16, 20, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]
    return [(both[:, :12], both[:, 12:]) for both in draw]


def step(model, optimizer, batch, run=None):
    optimizer.zero_grad()
    loss = (model(batch[0]) - batch[1]).square().mean()
    loss = loss if run is None else loss + run.penalty()
    loss.backward()
    optimizer.step()


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **settings})


def train(model, optimizer, run, steps, look=lambda index: None):
    for index, batch in enumerate(batches(steps)):
        step(model, optimizer, batch, run)
        look(index)


def density(masks):
    return sum(mask.nnz for mask in masks.values()) / sum(mask.keep.numel() for mask in masks.values())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("pattern", [sk.Unstructured(), sk.Block(4, 4)], ids=str)
@pytest.mark.parametrize("make", [sgd, lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2)])
def test_masks_are_nested_and_zeros_stay_zero(method, pattern, make):
    model = network()
    optimizer = make(model)
    run = sk.attach(model, optimizer, method, pattern=pattern, sparsity=0.8, steps=40)
    seen = [run.masks]

    def look(index):
        masks = run.masks
        for name, mask in masks.items():
            assert not (mask.keep & ~seen[-1][name].keep).any()
            assert (model.get_parameter(name)[~mask.keep] == 0).all()
        seen.append(masks)

    train(model, optimizer, run, 40, look)
    units = sum(mask.keep.numel() for mask in run.finish().values()) // (16 if pattern == sk.Block(4, 4) else 1)
    kept = density(run.masks) * units
    assert len({density(masks) for masks in seen}) > 3
    # per layer, Uniform rounds each layer up; the global ranking meets the total
    assert kept == pytest.approx(units - math.floor(0.8 * units), abs=1e-6 if "Iter" not in repr(method) else 2)


@pytest.mark.parametrize("method", [sk.LearningRateRewinding(rounds=4), sk.LotteryTicket(rounds=4)])
def test_without_a_sparsity_a_round_removes_a_fifth(method):
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, method, steps=50)
    densities = []
    train(model, optimizer, run, 50, lambda index: densities.append(density(run.masks)))
    size = 12 * 24 + 24 * 8
    expected = [1.0, *(0.8**done for done in range(1, 5))]
    for found, wanted in zip(sorted(set(densities), reverse=True), expected, strict=True):
        assert wanted <= found < wanted + 1 / size + 1e-9


def test_a_fifth_per_round_ends_at_the_sparsity_exactly():
    assert sk.LotteryTicket().count(0.5) == 4  # 0.8, 0.64, 0.512, and then less than a fifth
    model, counts = network(), set()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.LotteryTicket(), sparsity=0.5, steps=50)
    train(model, optimizer, run, 50, lambda index: counts.add(round(density(run.masks) * 480)))
    assert counts == {480, 384, 308, 246, 240}


def test_given_rounds_are_geometric():
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.LotteryTicket(rounds=2), sparsity=0.75, steps=30)
    densities = []
    train(model, optimizer, run, 30, lambda index: densities.append(density(run.masks)))
    assert densities == [1.0] * 9 + [0.5] * 10 + [0.25] * 11


@given(st.integers(1, 400), st.integers(0, 12), st.floats(0, 0.99))
def test_the_first_phase_is_the_longest_that_the_run_affords(dense, count, rewind):
    method = sk.LearningRateRewinding(rewind=rewind)
    steps = method.total_steps(dense, count)
    assert steps == dense + count * (dense - method.rewound_step(dense))
    assert method.dense_steps(steps, count) == dense
    assert method.dense_steps(steps + 1, count) in {dense, dense + 1}


@pytest.mark.parametrize("method", [sk.LearningRateRewinding(rounds=3, rewind=0.3), sk.LotteryTicket(rounds=3)])
def test_learning_rates_are_replayed_and_the_schedule_is_left_alone(method):
    dense = 10
    steps = method.total_steps(dense, 3)
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[1:].parameters(), "lr": 0.01}], 0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda index: 0.9**index)
    used, own = [], []
    run = sk.attach(model, optimizer, method, sparsity=0.5, steps=steps)
    optimizer.register_step_pre_hook(lambda *_: used.append([group["lr"] for group in optimizer.param_groups]))

    def look(index):
        own.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()

    train(model, optimizer, run, steps, look)
    first = [[0.1 * 0.9**index, 0.01 * 0.9**index] for index in range(dense)]
    start = method.rewound_step(dense)
    assert start == (3 if method.rewind else 0)
    for found, wanted in zip(used, first + 3 * first[start:], strict=True):
        assert found == pytest.approx(wanted, rel=1e-12)
    for index, found in enumerate(own):
        assert found == pytest.approx([0.1 * 0.9**index, 0.01 * 0.9**index], rel=1e-12)


@pytest.mark.parametrize("keep_momentum", [True, False])
def test_learning_rate_rewinding_keeps_the_weights(keep_momentum):
    """The whole run against a loop by hand: same weights in each phase, momentum kept or gone at the boundaries."""
    method = sk.LearningRateRewinding(rounds=1, rewind=0.5, keep_momentum=keep_momentum)
    model, twin = network(torch.float64), network(torch.float64)
    optimizer, other = sgd(model), sgd(twin)
    run = sk.attach(model, optimizer, method, sparsity=0.5, steps=9)
    data = batches(9, torch.float64)
    for batch in data[:6]:
        step(model, optimizer, batch, run)
        step(twin, other, batch)
    masks = run.masks
    every = torch.cat([twin.get_parameter(name).abs().flatten() for name in masks])
    threshold = every.sort().values[every.numel() // 2]
    with torch.no_grad():
        for name, mask in masks.items():
            weight = twin.get_parameter(name)
            assert torch.equal(mask.keep, weight.abs() >= threshold)
            weight *= mask.keep
            if keep_momentum:
                other.state[weight]["momentum_buffer"] *= mask.keep
    if not keep_momentum:
        other = sgd(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    for batch in data[6:]:
        step(model, optimizer, batch, run)
        other.zero_grad()
        (twin(batch[0]) - batch[1]).square().mean().backward()
        for name, mask in masks.items():
            twin.get_parameter(name).grad *= mask.keep
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize(("rewind", "start"), [(0.0, 0), (0.25, 3)])
def test_a_ticket_is_where_it_began_bit_for_bit(rewind, start):
    method = sk.LotteryTicket(rounds=2, rewind=rewind)
    steps = method.total_steps(12, 2)
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, method, sparsity=0.75, steps=steps)
    kept = {-1: copy.deepcopy(model.state_dict())}
    rewound = []

    def look(index):
        kept[index] = copy.deepcopy(model.state_dict())
        if index + 1 in {method.total_steps(12, 0), method.total_steps(12, 1)}:
            assert not optimizer.state
            rewound.append(index)
            for name, value in model.state_dict().items():
                keep = run.masks[name].keep if name in run.masks else torch.ones_like(value, dtype=torch.bool)
                assert torch.equal(value, kept[start - 1][name].masked_fill(~keep, 0))
        elif rewound:
            assert optimizer.state

    train(model, optimizer, run, steps, look)
    assert len(rewound) == 2
    assert kept[11]["1.running_mean"].equal(kept[start - 1]["1.running_mean"])


def test_rewinding_to_step_k_is_training_k_steps_before():
    """A run that rewinds to step 4, and one that starts from the weights after 4 steps, have the same last phase."""
    data = batches(12)
    model, twin = network(), network()
    for batch in data[:4]:
        step(twin, sgd(twin, momentum=0.0), batch)
    runs = []
    for net, method, order in (
        (model, sk.LotteryTicket(rounds=1, rewind=1 / 3), [*data, *data[4:]]),
        (twin, sk.LotteryTicket(rounds=1), [*data[4:], *data[4:]]),
    ):
        optimizer = sgd(net, momentum=0.0)
        run = sk.attach(net, optimizer, method, sparsity=0.5, steps=len(order))
        for batch in order:
            step(net, optimizer, batch, run)
        runs.append(run.finish())
    assert all(torch.equal(runs[0][name].keep, runs[1][name].keep) for name in runs[0])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


def test_the_control_keeps_the_masks_and_draws_other_weights():
    model, twin = network(), network()
    for net, again in ((model, False), (twin, True)):
        optimizer = sgd(net)
        run = sk.attach(net, optimizer, sk.LotteryTicket(rounds=1, reinitialise=again), sparsity=0.5, steps=8)
        before = torch.get_rng_state()
        train(net, optimizer, run, 4)
        assert torch.equal(before, torch.get_rng_state())
    for name in ("0.weight", "3.weight"):
        mine, control = model.get_parameter(name), twin.get_parameter(name)
        assert torch.equal(mine == 0, control == 0)
        assert not (mine == control)[mine != 0].any()
    assert torch.equal(model[1].weight, twin[1].weight)


@pytest.mark.parametrize("cut", [5, 15])
def test_a_run_resumes_in_any_phase(cut):
    model, twin = network(), network()
    optimizer, other = sgd(model), sgd(twin)
    method = sk.LotteryTicket(rounds=2, rewind=0.2)
    runs = [sk.attach(net, o, method, sparsity=0.6, steps=26) for net, o in ((model, optimizer), (twin, other))]
    data = batches(26)
    for batch in data[:cut]:
        step(model, optimizer, batch, runs[0])
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    saved = runs[0].state_dict()
    for batch in data[cut:]:
        step(model, optimizer, batch, runs[0])
    assert len(saved["numbers"]["learning_rates"]) == min(cut, method.dense_steps(26, 2))
    runs[1].load_state_dict(saved)
    for batch in data[cut:]:
        step(twin, other, batch, runs[1])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


def test_the_threshold_removes_what_the_error_function_says():
    torch.manual_seed(0)
    model = nn.Linear(500, 400)
    with torch.no_grad():
        model.weight.normal_(0.0, 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = sk.attach(model, optimizer, sk.IterativePruning(rounds=1, quality=0.7), steps=2)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    assert run.finish()["weight"].sparsity == pytest.approx(math.erf(0.7 / math.sqrt(2)), abs=0.005)


def test_a_short_run_has_fewer_rounds():
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.LotteryTicket(), sparsity=0.9, steps=5)
    train(model, optimizer, run, 4)
    assert density(run.masks) == 0.1


def test_a_fixed_pattern_is_pruned_once():
    model, sparsities = network(), []
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.IterativePruning(), pattern=sk.NM(2, 4), steps=21)
    train(model, optimizer, run, 21, lambda index: sparsities.append(run.sparsity))
    assert sparsities == [0.0] * 9 + [0.5] * 12


def test_what_cannot_be_is_refused():
    model = network()
    with pytest.raises(sk.PruningError, match="rounds: expected fewer than the 5 steps"):
        sk.attach(model, sgd(model), sk.IterativePruning(), sparsity=0.5, steps=5)
    with pytest.raises(sk.PruningError, match="compare within a row only"):
        sk.attach(model, sgd(model), sk.LotteryTicket(sk.Wanda()), sparsity=0.5, steps=50, batches=[batches(1)[0][0]])
    for make in (
        lambda: sk.IterativePruning(rounds=0),
        lambda: sk.LotteryTicket(rewind=1.0),
        lambda: sk.LotteryTicket(fraction=0.0),
        lambda: sk.LearningRateRewinding(rounds=1.5),
        lambda: sk.IterativePruning(quality=0.0),
    ):
        with pytest.raises(sk.PruningError, match="expected"):
            make()
