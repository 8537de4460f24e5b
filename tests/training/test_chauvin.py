"""ChauvinPenalty: the energy of outputs, and the hooks that see them."""

import copy
import pickle

import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsekit as sk
from sparsekit.training.penalties.chauvin import ENERGIES


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def started(method, model=None, sparsity=0.5, steps=20, **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return model, sk.attach(model, optimizer, method, sparsity=sparsity, steps=steps, **options), optimizer


def inputs(seed=0, rows=10):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def energy(value, n):
    """``e(o^2)`` as the integral of its derivative."""
    return quad(lambda square: 1 / (1 + square) ** n, 0, value**2)[0]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_energy_and_its_derivative(n):
    squares = torch.tensor([0.0, 1e-6, 0.3, 1.0, 7.0], dtype=torch.float64, requires_grad=True)
    values = ENERGIES[n](squares)
    values.sum().backward()
    torch.testing.assert_close(squares.grad, 1 / (1 + squares.detach()) ** n)
    expected = [energy(float(square) ** 0.5, n) for square in squares.detach()]
    torch.testing.assert_close(values.detach(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_the_term_is_summed_over_units_and_averaged_over_samples(n):
    model, run, _ = started(sk.ChauvinPenalty(0.1, n), layers=["0"])
    outputs = model[0](inputs())
    outputs.retain_grad()
    term = run.penalty()
    total = sum(energy(float(value), n) for value in outputs.detach().flatten())
    assert float(term.detach()) == pytest.approx(0.1 * total / 10, rel=1e-9)
    term.backward()
    values = outputs.detach()
    torch.testing.assert_close(outputs.grad, 0.1 / 10 * 2 * values / (1 + values**2) ** n)


def test_units_that_are_silent_cost_nothing():
    model, run, _ = started(sk.ChauvinPenalty(activation="relu"), layers=["0"])
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    model(inputs())
    assert float(run.penalty().detach()) == 0.0


def test_places_of_a_feature_map_are_averaged():
    model = nn.Conv2d(2, 3, 3).double()
    _, run, _ = started(sk.ChauvinPenalty(1.0, 0), model, sparsity=1 / 3)
    images = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = model(images)
    expected = outputs.detach().square().mean(dim=(0, 2, 3)).sum()
    torch.testing.assert_close(run.penalty().detach(), expected)


def test_only_passes_that_train_are_seen():
    model, run, _ = started(sk.ChauvinPenalty())
    with torch.no_grad():
        model(inputs())
    assert float(run.penalty()) == 0.0
    model.eval()
    model(inputs())
    assert float(run.penalty()) == 0.0
    model.train()
    model(inputs(1))
    term = float(run.penalty().detach())
    model(inputs(1))
    with torch.no_grad():
        model(inputs(2))
    assert float(run.penalty().detach()) == term
    assert float(run.penalty().detach()) == term, "looking again changes nothing"
    model(inputs(3))
    assert float(run.penalty().detach()) != term, "another pass takes the place of the last"


def test_a_layer_that_runs_twice_pays_for_both():
    model, run, _ = started(sk.ChauvinPenalty(1.0, 0), layers=["0"])
    both = torch.cat([model[0](inputs(0)), model[0](inputs(1))]).detach()
    torch.testing.assert_close(run.penalty().detach(), both.square().mean(dim=0).sum())


def test_recomputed_passes_do_not_count():
    """The backward pass of one batch runs its layers again: they are no part of the next batch."""
    model, run, _ = started(sk.ChauvinPenalty(1.0, 0))
    for seed in range(2):  # two batches of one step
        loss = checkpoint(model, inputs(seed), use_reentrant=False).square().mean()
        term = run.penalty()
        (loss + term).backward()
        hidden = inputs(seed) @ model[0].weight.T + model[0].bias
        outputs = hidden, torch.tanh(hidden) @ model[2].weight.T + model[2].bias
        torch.testing.assert_close(term, sum(values.square().mean(dim=0).sum() for values in outputs))


def test_the_units_of_least_mean_energy_go():
    model, run, optimizer = started(sk.ChauvinPenalty(0.1, 1, momentum=0.8), steps=6)
    means = {}
    for step in range(6):
        optimizer.zero_grad()
        hidden = model[0](inputs(step))
        outputs = {"0.weight": hidden, "2.weight": model[2](torch.tanh(hidden))}
        (outputs["2.weight"].square().mean() + run.penalty()).backward()
        for name, values in outputs.items():
            now = torch.log(1 + values.detach() ** 2).mean(dim=0)
            means[name] = now if step == 0 else 0.8 * means[name] + 0.2 * now
        optimizer.step()
    for name, mask in run.finish().items():
        gone = ~mask.keep[:, 0]
        assert means[name][gone].max() < means[name][~gone].min()
        assert int(gone.sum()) == len(gone) // 2
    assert run.history.series("energy", "0.weight")[-1][1] == pytest.approx(float(means["0.weight"].mean()))


def test_hooks_go_with_the_run():
    model, run, optimizer = started(sk.ChauvinPenalty(), steps=3)
    assert hooks(model) == 2
    for step in range(3):
        optimizer.zero_grad()
        (model(inputs(step)).mean() + run.penalty()).backward()
        optimizer.step()
    assert hooks(model) == 0, "after the last step"
    model, run, _ = started(sk.ChauvinPenalty())
    run.finish()
    assert hooks(model) == 0
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))[0].weight, model[0].weight)


def test_copies_of_the_model_are_not_watched():
    model, run, _ = started(sk.ChauvinPenalty())
    model(inputs(0))
    term = float(run.penalty().detach())
    model(inputs(0))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(inputs(1))
    assert float(run.penalty().detach()) == term


def test_a_step_without_a_pass_warns_once():
    model, run, optimizer = started(sk.ChauvinPenalty(), steps=3)
    model.eval()
    (model(inputs()).mean() + run.penalty()).backward()
    with pytest.warns(sk.SparsekitWarning, match="expected a forward pass in training mode before step 0"):
        optimizer.step()
    run.penalty()
    optimizer.step()  # a second warning would be an error
    assert all(mask.sparsity == 0.5 for mask in run.finish().values())


@pytest.mark.parametrize("settings", [{"n": 3}, {"strength": 0}, {"momentum": 2}, {"activation": "swish"}])
def test_refusals(settings):
    with pytest.raises(sk.PruningError, match=f"{next(iter(settings))}: expected"):
        sk.ChauvinPenalty(**settings)
