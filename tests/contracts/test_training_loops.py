"""Loops as users write them, with every training method: scaling, accumulation, clipping, closures, compiled models."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.training import TRAINING_METHODS
from tests.contracts.test_training_contracts import counted, equal, finished
from tests.contracts.trainings import STEPS, batch, loss_fn, network, start, usual

SHORT = 10
# What these score by comes from the last forward pass before a step: of accumulated gradients, from the last part.
SEEING_PARTS = {sk.ChauvinPenalty}
EVERY = pytest.mark.parametrize("kind", TRAINING_METHODS)
FAMILIES = [sk.GradualPruning, sk.SRSTE, sk.SelectiveWeightDecay]


def close(first, second, tolerance=1e-9, masks=True):
    """Whether two results have the same masks, and weights up to rounding."""
    for name, keep in first["masks"].items():
        assert not masks or torch.equal(keep, second["masks"][name]), name
    for name, value in first["weights"].items():
        torch.testing.assert_close(value, second["weights"][name], rtol=tolerance, atol=tolerance)
    return True


def smooth(kind, optimizer="sgd"):
    """A training without batch statistics, in float64, so that sums over batches may be cut anywhere."""
    model = network(torch.float64)
    model[1][0] = nn.Identity()
    return start(kind(), model, optimizer, dtype=torch.float64, steps=SHORT)


def cut(training, parts):
    """Train with every batch cut into ``parts``, and with gradients clipped where they are long; not to the end."""
    for index in range(SHORT - 1):
        inputs, labels = batch(index, dtype=torch.float64)
        training.optimizer.zero_grad()
        for some, wanted in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
            loss = F.cross_entropy(training.model(some), wanted) + training.run.penalty()
            (loss / parts).backward()
        norm = nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
        training.optimizer.step()
        assert norm > 0.5 or index
    return training


@EVERY
def test_half_batches_add_up_and_are_clipped(kind):
    whole, halves = (cut(smooth(kind), parts) for parts in (1, 2))
    assert close(halves.result(), whole.result(), masks=kind not in SEEING_PARTS)
    if kind not in SEEING_PARTS:
        for training in (whole, halves):
            training.run.finish()
        assert close(halves.result(), whole.result())


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
@EVERY
def test_scaled_gradients_are_unscaled_and_skipped_steps_are_none(kind, optimizer):
    """Powers of two change no bit; a fused optimizer divides by itself, after the run has looked at the gradients."""
    spoiled = 5
    training = smooth(kind, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    for index in range(SHORT + 1):
        training.optimizer.zero_grad()
        data = batch(index - (index > spoiled), dtype=torch.float64)
        loss = loss_fn(training.model, data) + training.run.penalty()
        scaler.scale(loss * float("inf") if index == spoiled else loss).backward()
        before = training.run.step
        scaler.step(training.optimizer)
        scaler.update()
        assert training.run.step == before + (index != spoiled)
    assert equal(training.result(), smooth(kind, optimizer).go(0, SHORT, torch.float64).result())


@EVERY
def test_closures(kind):
    training = start(kind())
    for index in range(STEPS):

        def closure(index=index):
            training.optimizer.zero_grad()
            loss = loss_fn(training.model, batch(index)) + training.run.penalty()
            loss.backward()
            return loss

        loss = training.optimizer.step(closure) if index % 2 else training.optimizer.step(closure=closure)
        assert loss.isfinite()
    assert equal(training.result(), finished(kind))


@EVERY
def test_bfloat16_weights(kind):
    training = start(kind(), dtype=torch.bfloat16, steps=8).go(0, 9, torch.bfloat16)
    masks = training.run.finish()
    assert training.run.stopped is None
    assert counted(kind, masks, **usual(kind))
    for name, mask in masks.items():
        weight = training.model.get_parameter(name)
        assert weight.dtype == torch.bfloat16
        assert not weight[~mask.keep].any()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.last = nn.Linear(16, 12)

    def forward(self, x):
        return self.last(self.second(self.first(x.flatten(1)[:, :16]).relu()).relu())


@EVERY
def test_tied_weights_are_one(kind):
    torch.manual_seed(0)
    training = start(kind(), Tied(), steps=8).go(0, 9)
    masks = training.run.finish()
    assert list(masks) == ["first.weight", "last.weight"]
    assert counted(kind, masks, **usual(kind))
    assert training.model.first.weight is training.model.second.weight


@EVERY
def test_layers_that_a_loss_does_not_reach(kind):
    """Their gradient is None all the way."""
    model = network()
    model.append(nn.Linear(12, 8))

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner[:3](x)

    training = start(kind(), Part(), steps=8).go(0, 8)
    assert counted(kind, training.run.finish(), **usual(kind))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_compiled_models(kind, backend):
    torch.compiler.reset()
    training = start(kind(), torch.compile(network(), backend=backend)).go(0, STEPS)
    result = training.result()
    result["weights"] = {name.removeprefix("_orig_mod."): value for name, value in result["weights"].items()}
    assert close(result, finished(kind), tolerance=1e-5)
