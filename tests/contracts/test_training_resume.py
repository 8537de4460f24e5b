"""A run that was saved and loaded goes on as if nothing had happened, bit for bit."""

import copy
import functools

import pytest
import torch

from sparsekit.training import TRAINING_METHODS
from tests.contracts.test_training_contracts import equal
from tests.contracts.trainings import STEPS, load, start

STOPS = (1, 7, STEPS - 1, STEPS + 1)
END = STEPS + 3


@functools.cache
def uninterrupted(kind):
    """What a whole training comes to, and what was saved on the way."""
    training, saved = start(kind()), {}
    for index in range(END):
        training.go(index, index + 1)
        if index + 1 in STOPS:
            saved[index + 1] = training.saved()
    training.run.finish()
    return training.result(), saved


@pytest.mark.parametrize("before", [True, False], ids=["loaded before attach", "loaded after attach"])
@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_resume_equals_uninterrupted(kind, before):
    whole, saved = uninterrupted(kind)
    for stop in STOPS:
        training = load(saved[stop], kind(), before)
        assert training.run.step == stop
        training.go(stop, END).run.finish()
        assert equal(training.result(), whole), f"from step {stop}"


@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_resume_with_adam(kind):
    """Its steps are remembered beside the moments."""
    training = start(kind(), optimizer="adamw").go(0, 7)
    again = load(training.saved(), kind(), before=True, optimizer="adamw")
    assert equal(again.go(7, STEPS).result(), training.go(7, STEPS).result())


@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_a_run_goes_back_to_what_it_saved(kind):
    """Within the same objects, and the saved dictionary is not touched by what follows."""
    training = start(kind()).go(0, 6)
    saved = training.run.state_dict()
    kept = copy.deepcopy({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()})
    first = training.go(6, 13).result()
    for _ in range(2):
        training.model.load_state_dict(kept["model"])
        with torch.no_grad():  # pruned weights come from the run
            for name in saved["sites"]:
                training.model.get_parameter(name).add_(1.0)
        training.optimizer.load_state_dict(copy.deepcopy(kept["optimizer"]))
        training.run.load_state_dict(saved)
        assert equal(training.go(6, 13).result(), first)


@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_a_saved_run_is_plain(kind):
    """Numbers, strings, lists, dictionaries and tensors, none of them shared with the run."""
    training = start(kind()).go(0, 6)
    saved = training.run.state_dict()
    before = copy.deepcopy(saved)
    training.go(6, 8)

    def compare(value, first):
        assert type(value) is type(first)
        if isinstance(value, dict):
            assert value.keys() == first.keys()
            for name in value:
                assert isinstance(name, (str, int))
                compare(value[name], first[name])
        elif isinstance(value, list | tuple):
            for one, other in zip(value, first, strict=True):
                compare(one, other)
        elif isinstance(value, torch.Tensor):
            assert not value.requires_grad
            assert torch.equal(value, first)
        else:
            assert value is None or isinstance(value, (str, int, float, bool))
            assert repr(value) == repr(first)

    compare(saved, before)
