"""GSM: the gradient of the loss for those that matter, momentum and weight decay for the others."""

import pytest
import torch
from torch import nn

import sparsekit as sk

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def started(sparsity=0.75, pattern=None, steps=30):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    return model, optimizer, sk.attach(model, optimizer, sk.GSM(), pattern, sparsity, steps=steps)


def differentiate(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.randn(16, n, generator=generator, dtype=torch.float64) for n in (6, 4))
    optimizer.zero_grad()
    (model(inputs) - targets).square().mean().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_exactly_as_many_gradients_pass_as_weights_stay():
    model, optimizer, _ = started()
    for step in range(10):
        before = differentiate(model, optimizer, step)
        metric = torch.cat([(before[n] * model.get_parameter(n)).abs().flatten() for n in ("0.weight", "2.weight")])
        optimizer.step()
        after = torch.cat([model.get_parameter(n).grad.flatten() for n in ("0.weight", "2.weight")])
        passed = after != 0
        assert int(passed.sum()) == 20, "a quarter of 48 + 32"
        assert metric[passed].min() >= metric[~passed].max(), "across the layers"
        raw = torch.cat([before[n].flatten() for n in ("0.weight", "2.weight")])
        assert torch.equal(after[passed], raw[passed])
        for name in ("0.bias", "2.bias"):
            assert torch.equal(model.get_parameter(name).grad, before[name])


def test_passive_weights_follow_the_recursion_of_momentum_and_decay():
    """``v = momentum * v + decay * w; w = w - lr * v``: a matrix power, from the step where a weight became passive."""
    model, optimizer, _ = started(sparsity=0.5)
    weight = model[0].weight
    asleep = torch.ones_like(weight, dtype=torch.bool)
    differentiate(model, optimizer, 0)
    optimizer.step()
    start, speed = weight.detach().clone(), optimizer.state[weight]["momentum_buffer"].clone()
    steps = 6
    for step in range(steps):
        differentiate(model, optimizer, step + 1)
        optimizer.step()
        asleep &= weight.grad == 0
    assert 3 <= int(asleep.sum()) < 40
    move = torch.tensor([[1 - LR * DECAY, -LR * MOMENTUM], [DECAY, MOMENTUM]], dtype=torch.float64)
    expected = torch.linalg.matrix_power(move, steps)[0] @ torch.stack([start[asleep], speed[asleep]])
    torch.testing.assert_close(weight.detach()[asleep], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("pattern", "sparsity", "units"),
    [(sk.NM(1, 2), None, (48, 32)), (sk.Filter(), 0.5, (8, 4)), (sk.Block(2, 2), 0.5, (12, 8))],
)
def test_units_of_a_pattern_pass_as_a_whole(pattern, sparsity, units):
    model, optimizer, run = started(sparsity, pattern)
    differentiate(model, optimizer, 0)
    optimizer.step()
    for name in ("0.weight", "2.weight"):
        assert pattern.admits(model.get_parameter(name).grad != 0)
    shares = run.history.rows[-1]["active"].values()
    assert sum(share * count for share, count in zip(shares, units)) == pytest.approx(sum(units) / 2)


def test_the_smallest_weights_go_in_the_end():
    model, optimizer, run = started(steps=5)
    for step in range(5):
        differentiate(model, optimizer, step)
        if step == 4:
            run._state.steps += 1  # to look at the weights before they go
        optimizer.step()
    sizes = torch.cat([weight.detach().abs().flatten() for weight in (model[0].weight, model[2].weight)])
    keep = torch.cat([mask.keep.flatten() for mask in run.finish().values()])
    assert int(keep.sum()) == 20
    assert sizes[keep].min() >= sizes[~keep].max()
