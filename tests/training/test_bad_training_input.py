"""What attach and a run refuse: one clear error each, before anything has changed."""

import copy
import dataclasses
import gc
import re
import warnings

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.training import TRAINING_METHODS, History
from tests.contracts.trainings import start

RANKING = [kind for kind in TRAINING_METHODS if "criterion" in {field.name for field in dataclasses.fields(kind)}]
PENALTIES = [kind for kind in TRAINING_METHODS if kind().has_penalty]
INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


def loss_fn(model, batch):
    return model(batch).square().mean()


def attach(model=None, optimizer=None, method=None, pattern=None, sparsity=0.5, steps=10, **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    return sk.attach(model, optimizer, method or sk.GradualPruning(), pattern, sparsity, steps, **options)


def train(run, steps, penalised=True):
    """Train the model of a run."""
    state = run._state
    for _ in range(steps):
        state.optimizer.zero_grad()
        loss = loss_fn(state.model, INPUTS)
        (loss + run.penalty() if penalised else loss).backward()
        state.optimizer.step()


def other_optimizer():
    return torch.optim.SGD(network().parameters(), lr=0.1)


CASES = {
    "steps: expected the optimizer steps of the whole run, at least 1, got 0": {"steps": 0},
    "steps: expected the optimizer steps of the whole run, at least 1, got -3": {"steps": -3},
    "steps: expected the optimizer steps of the whole run, at least 1, got None": {"steps": None},
    "steps: expected the optimizer steps of the whole run, at least 1, got 10.0": {"steps": 10.0},
    "steps: expected the optimizer steps of the whole run, at least 1, got True": {"steps": True},
    "sparsity: expected a fraction of zeros in [0, 1), got 1.0": {"sparsity": 1.0},
    "sparsity: expected a fraction of zeros in [0, 1), got -0.1": {"sparsity": -0.1},
    "sparsity: expected a fraction of zeros in [0, 1), got 'half'": {"sparsity": "half"},
    "expects a fraction of zeros in [0, 1), got None": {"sparsity": None},
    "0.weight: NM(2, 4) fixes its own sparsity: expected 0.5 or None, got 0.75": {
        "pattern": sk.NM(2, 4),
        "sparsity": 0.75,
    },
    "NM(2, 4) fixes the sparsity of every layer, so Global(normalise=None, minimum=0.0) has nothing to share out": {
        "pattern": sk.NM(2, 4),
        "sparsity": None,
        "allocation": sk.Global(),
    },
    "0.weight: KernelSlice() needs kernels, a weight (out, in, height, width), got shape (12, 8)": {
        "pattern": sk.KernelSlice()
    },
    "pattern: expected a Pattern, got <class 'sparsekit.patterns.block.Block'>; write Block(...)": {
        "pattern": sk.Block
    },
    "allocation: expected an Allocation, got 'global'": {"allocation": "global"},
    "optimizer: expected a torch.optim.Optimizer, got Sequential": {"optimizer": network()},
    "optimizer: expected one that takes one gradient per step, got LBFGS, which takes many": {
        "optimizer": torch.optim.LBFGS(network().parameters())
    },
    "0.weight: expected an optimizer that holds the parameter, got one that does not": {"optimizer": other_optimizer()},
    "method: expected a TrainingMethod such as GradualPruning(), got Magnitude(); criteria and solvers go to prune": {
        "method": sk.Magnitude()
    },
    "got <class 'sparsekit.training.masking.gradual.GradualPruning'>; write GradualPruning(...)": {
        "method": sk.GradualPruning
    },
    "batches: Wanda() needs batches of what the model takes, got None": {
        "method": sk.GradualPruning(criterion=sk.Wanda())
    },
    "batches: SNIP() needs batches of what the model takes, got an empty list": {
        "method": sk.SelectiveWeightDecay(criterion=sk.SNIP()),
        "batches": [],
        "loss_fn": loss_fn,
    },
    "loss_fn: SNIP() needs loss_fn(model, batch), a scalar tensor, got None": {
        "method": sk.GradualPruning(criterion=sk.SNIP()),
        "batches": [INPUTS],
    },
    "in a list or another iterable, got one Tensor": {"batches": INPUTS},
    "model: expected a torch.nn.Module, got list": {"model": [1]},
    "layers: expected a choice of at least one Linear or Conv2d, got none of the 0": {
        "model": nn.Sequential(nn.LayerNorm(4))
    },
    "layers: expected names of Linear or Conv2d layers, got '5', which is not there": {"layers": ["5"]},
}


@pytest.mark.parametrize("message", CASES)
def test_attach_refuses(message):
    options = dict(CASES[message])
    model = options.get("model", network())
    if not isinstance(model, nn.Module):
        options["optimizer"] = other_optimizer()
    before = copy.deepcopy(model)
    with pytest.raises(sk.SparsekitError) as caught:
        attach(**{"model": model, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters()))
        for layer in (model, *model.modules()):
            assert not layer._forward_hooks
            assert not layer._forward_pre_hooks


@pytest.mark.parametrize(("criterion", "hint"), [(sk.Magnitude, "; write Magnitude"), ("magnitude", ""), (None, "")])
@pytest.mark.parametrize("kind", RANKING)
def test_a_criterion_that_is_none(kind, criterion, hint):
    with pytest.raises(sk.PruningError, match=f"criterion: expected a Criterion.*, got .*{hint}"):
        attach(method=kind(criterion=criterion))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"end": 1.5}, "end: expected a fraction in [0, 1], got 1.5"),
        ({"begin": -0.1}, "begin: expected a fraction in [0, 1], got -0.1"),
        ({"begin": 0.8, "end": 0.5}, "end: expected a share of the run from begin=0.8 on, got 0.5"),
        ({"every": 0}, "every: expected a whole number of steps, at least 1, got 0"),
    ],
)
def test_a_schedule_beyond_the_run(settings, message):
    with pytest.raises(sk.PruningError, match=re.escape(message)):
        sk.GradualPruning(**settings)


def test_a_frozen_weight():
    model = network()
    model[2].weight.requires_grad_(False)
    with pytest.raises(sk.LayerError, match=r"2.weight: expected a weight that trains, got a frozen one"):
        attach(model)
    assert list(attach(model, layers=["0"]).finish()) == ["0.weight"]


def test_one_run_at_a_time():
    model = network()
    run = attach(model)
    with pytest.raises(sk.PruningError, match=r"0.weight: .* got one; finish\(\) that run first"):
        attach(model, method=sk.SelectiveWeightDecay())
    run.finish()
    attach(model, method=sk.SelectiveWeightDecay()).finish()


def test_a_run_that_is_gone_is_in_nobody_s_way():
    model = network()
    run = attach(model)
    del run
    gc.collect()
    attach(model).finish()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": sk.GradualPruning(every=3)}, "a run with method GradualPruning"),
        ({"pattern": sk.Filter()}, "a run with pattern Filter(), got one with Unstructured()"),
        ({"sparsity": 0.75}, "a run with sparsity 0.75, got one with 0.5"),
        ({"steps": 20}, "a run with steps 20, got one with 10"),
        (
            {"allocation": sk.Global()},
            "a run with allocation Global(normalise=None, minimum=0.0), got one with Uniform(",
        ),
        (
            {"layers": ["0"]},
            "a run with layers ['0.weight 12 x 8'], got one with ['0.weight 12 x 8', '2.weight 4 x 12']",
        ),
    ],
)
def test_resuming_another_run(changes, message):
    run = attach()
    train(run, 5)
    saved = run.state_dict()
    other = attach(**changes)
    before = other.state_dict()
    with pytest.raises(sk.PruningError) as caught:
        other.load_state_dict(saved)
    assert message in str(caught.value)
    assert str(other.state_dict()) == str(before)


@pytest.mark.parametrize("saved", [None, {}, {"version": 0}, network().state_dict()])
def test_resuming_from_something_else(saved):
    with pytest.raises(sk.PruningError, match="expected what a run's state_dict returned, got something else"):
        attach().load_state_dict(saved)


def test_resuming_a_finished_run():
    run = attach()
    saved = run.state_dict()
    run.finish()
    with pytest.raises(sk.PruningError, match="expected a run that goes on, got one that is finished"):
        run.load_state_dict(saved)


@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_a_nan_loss_stops_the_pruning(kind):
    training = start(kind()).go(0, 12)
    run = training.run
    with torch.no_grad():
        training.model[2].bias[0] = float("nan")
    with pytest.warns(sk.SparsekitWarning, match=r"step 12: expected finite gradients, got NaN or infinite ones"):
        training.go(12, 13)
    assert run.stopped == "step 12: expected finite gradients, got NaN or infinite ones"
    masks = run.masks
    assert float(run.penalty()) == 0.0
    training.go(13, 15)
    assert all(torch.equal(mask.keep, run.masks[name].keep) for name, mask in masks.items())
    finished = run.finish()
    assert all(torch.equal(mask.keep, finished[name].keep) for name, mask in masks.items())
    for name, mask in finished.items():
        assert not training.model.get_parameter(name)[~mask.keep].any()
    assert run.stopped


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_forgotten_penalty_is_told_once(kind):
    run = attach(method=kind())
    with pytest.warns(sk.SparsekitWarning, match=r"expected loss \+ run.penalty\(\), which was not called") as caught:
        train(run, 9, penalised=False)
    assert len(caught) == 1


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_penalty_that_is_asked_for_is_not_missed(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(attach(method=kind()), 12)


def test_a_training_method_goes_to_attach():
    with pytest.raises(sk.PruningError, match=r"method: expected a Criterion or Solver or Search.*; .* sk.attach"):
        sk.prune(network(), sk.GradualPruning(), sparsity=0.5)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"method": 1, "rows": 3}', "no json"])
def test_a_history_that_is_none(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(sk.CheckpointError, match="expected the history of a run, as JSON"):
        History.load(path)
