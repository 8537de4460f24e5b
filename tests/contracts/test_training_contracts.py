"""What every training method has to keep, with every pattern: TRAINING_METHODS and PATTERNS are the parameters."""

import copy
import functools
import pickle

import pytest
import torch

import sparsekit as sk
from sparsekit.patterns import (
    NM,
    PATTERNS,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.patterns.base import removed
from sparsekit.training import TRAINING_METHODS, GatedMethod
from tests.contracts.trainings import OPTIMIZERS, SPARSITY, STEPS, able, network, start, usual
from tests.counts import kept_count, layout

EXAMPLES = {
    Unstructured: Unstructured(),
    NM: NM(2, 4),
    Block: Block(4, 4),
    TransposableNM: TransposableNM(2, 4, "greedy"),
    VNM: VNM(4, 2, 8),
    Filter: Filter(),
    Channel: Channel(),
    Head: Head(4),
    KernelSlice: KernelSlice(),
    KernelPattern: KernelPattern(4, 3),
    OnePerKernel: OnePerKernel(),
    StridedKernel: StridedKernel(),
    PerTap: PerTap(NM(1, 2)),
    AllTaps: AllTaps(Block(2, 2)),
}
MADE = [EXAMPLES[kind] for kind in PATTERNS]
LEARNING = [kind for kind in TRAINING_METHODS if kind().learns_sparsity]
EVERY = pytest.mark.parametrize("kind", TRAINING_METHODS)


PAIRS = [(kind, pattern) for kind in TRAINING_METHODS for pattern in MADE if able(kind(), network(), pattern)]


def free_pattern(kind):
    """A pattern of the method that leaves the sparsity to the user, or None."""
    found = [kind().default_pattern, *MADE]
    return next((pattern for pattern in found if not pattern.fixes_sparsity and able(kind(), network(), pattern)), None)


def counted(kind, masks, pattern, sparsity):
    """Whether ``masks`` have as many zeros as were asked for: in each layer, or in all where they share a budget."""
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    if pattern.fixes_sparsity:
        return all(mask.nnz == kept_count(pattern, shapes[name], None) for name, mask in masks.items())
    grids = {name: layout(pattern, shape) for name, shape in shapes.items()}
    gone = {name: (mask.keep.numel() - mask.nnz) / grids[name][2] for name, mask in masks.items()}
    if kind().default_allocation.compares_scores:
        return sum(gone.values()) == removed(sparsity, sum(high * wide for high, wide, _ in grids.values()))
    shares = kind().default_allocation.sparsities({n: torch.ones(s) for n, s in shapes.items()}, sparsity)
    wanted = {name: removed(shares[name], high * wide) for name, (high, wide, _) in grids.items()}
    return sum(gone.values()) == sum(wanted.values()) if kind().redistributes else gone == wanted


@functools.cache
def finished(kind):
    """A whole training of the method with its usual settings."""
    training = start(kind())
    training.go(0, STEPS)
    return training.result()


def equal(first, second):
    """Whether two results are the same bit for bit."""
    assert first.keys() == second.keys()
    for part in ("weights", "masks"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part}: {name}"
    return first["rows"] == second["rows"] and first["stopped"] == second["stopped"]


def test_every_method_takes_a_pattern():
    assert {kind for kind, _ in PAIRS} == set(TRAINING_METHODS)
    assert all(able(kind(), network(), kind().default_pattern) for kind in TRAINING_METHODS)
    assert {pattern for _, pattern in PAIRS} == set(MADE)


@pytest.mark.parametrize(("kind", "pattern"), PAIRS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_masks_are_legal_and_meet_the_target(kind, pattern):
    layers = able(kind(), network(), pattern)
    training = start(kind(), pattern=pattern, steps=6).go(0, 3)
    for mask in training.run.masks.values():
        assert mask.pattern == pattern or (mask.keep.all() and mask.pattern == Unstructured())
    masks = training.go(3, 6).run.finish()
    assert training.run.stopped is None
    assert list(masks) == [f"{name}.weight" for name in layers]
    assert counted(kind, masks, pattern, SPARSITY)
    for name, mask in masks.items():
        assert mask.pattern == pattern
        weight = training.model.get_parameter(name)
        assert weight.isfinite().all()
        assert not weight[~mask.keep].any()
        assert weight[mask.keep].any() or not mask.nnz  # a shared budget may take all of a layer


@pytest.mark.parametrize("kind", LEARNING)
def test_a_sparsity_that_is_learned_is_that_of_the_weights(kind):
    for pattern in (kind().default_pattern, Filter()):
        if pattern.fixes_sparsity or not able(kind(), network(), pattern):
            continue
        training = start(kind(), pattern=pattern, sparsity=None)
        masks = training.go(0, STEPS).run.finish()
        zeros = {name: (training.model.get_parameter(name) == 0).double().mean().item() for name in masks}
        assert zeros == pytest.approx({name: mask.sparsity for name, mask in masks.items()})
        last = training.run.history.rows[-1]["sparsity"]
        assert last == pytest.approx({name: mask.sparsity for name, mask in masks.items()})


@EVERY
def test_a_run_is_the_same_from_the_same_seed(kind):
    torch.manual_seed(5)
    training = start(kind()).go(0, 7)
    torch.randn(3)
    torch.manual_seed(6)
    assert equal(training.go(7, STEPS).result(), finished(kind))


@EVERY
def test_looking_changes_nothing(kind):
    training = start(kind())
    for index in range(STEPS):
        training.go(index, index + 1)
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        with training.run.evaluating():
            assert training.run.masks
            assert all(value.isfinite().all() for value in training.model.parameters())
        training.run.state_dict()
        assert repr(training.run)
        assert 0.0 <= training.run.sparsity <= 1.0
        assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
    assert equal(training.result(), finished(kind))


@EVERY
def test_nothing_is_left_behind(kind):
    model = network()
    names = {name: id(value) for name, value in model.named_parameters()}
    attributes = {name: set(vars(layer)) for name, layer in model.named_modules()}
    numbers = torch.get_rng_state()
    training = start(kind(), model).go(0, 5)
    copy.deepcopy(model)
    training.run.finish()
    assert torch.equal(torch.get_rng_state(), numbers)
    assert {name: id(value) for name, value in model.named_parameters()} == names
    assert {name: set(vars(layer)) for name, layer in model.named_modules()} == attributes
    assert model.state_dict().keys() == network().state_dict().keys()
    for layer in model.modules():
        assert not any(len(value) for name, value in vars(layer).items() if name.endswith("_hooks"))
    for value in model.parameters():
        assert value.requires_grad
        assert not vars(value)
        assert not value._backward_hooks
        assert not value._post_accumulate_grad_hooks
    assert not any(len(value) for name, value in vars(training.optimizer).items() if name.endswith("_hooks"))
    clone = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert all(torch.equal(value, clone.state_dict()[name]) for name, value in model.state_dict().items())
    assert start(kind(), model).go(0, 3).run.finish()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@EVERY
def test_removed_weights_stay_zero_while_training_goes_on(kind, optimizer):
    training = start(kind(), optimizer=optimizer, steps=8).go(0, 8)
    masks = training.run.masks
    assert counted(kind, masks, **usual(kind))
    for index in range(8, 11):
        training.go(index, index + 1)
        for name, mask in masks.items():
            weight = training.model.get_parameter(name)
            assert not weight[~mask.keep].any()
            assert weight.isfinite().all()
    assert all(torch.equal(mask.keep, masks[name].keep) for name, mask in training.run.finish().items())
    assert training.run.history.rows[-1]["step"] == training.run.step == 11


@EVERY
def test_a_sparsity_of_0_removes_nothing(kind):
    pattern = free_pattern(kind)
    if pattern is None:
        pytest.skip("every pattern that it takes fixes its own sparsity")
    masks = start(kind(), pattern=pattern, sparsity=0.0, steps=8).go(0, 8).run.finish()
    assert all(mask.keep.all() for mask in masks.values())


@EVERY
def test_an_early_end_meets_the_target_as_well(kind):
    training = start(kind()).go(0, 5)
    with training.run.evaluating():
        shown = {name: value.clone() for name, value in training.model.state_dict().items()}
    masks = training.run.finish()
    if isinstance(training.run.method, GatedMethod):
        assert all(torch.equal(value, shown[name]) for name, value in training.model.state_dict().items())
    assert counted(kind, masks, **usual(kind))
    for name, mask in masks.items():
        assert not training.model.get_parameter(name)[~mask.keep].any()
    assert all(torch.equal(mask.keep, masks[name].keep) for name, mask in training.run.finish().items())


@EVERY
def test_the_history_tells_the_run(kind, tmp_path):
    rows = finished(kind)["rows"]
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    layers = set(finished(kind)["masks"])
    for row in rows:
        assert row["sparsity"].keys() == layers
        for name, values in row.items():
            assert name == "step" or values.keys() <= {"all", *layers}
    zeros = {name: 1 - keep.double().mean().item() for name, keep in finished(kind)["masks"].items()}
    assert rows[-1]["sparsity"] == pytest.approx(zeros)
    history = sk.training.History(repr(kind()), rows)
    history.save(tmp_path / "run.json")
    assert sk.training.History.load(tmp_path / "run.json") == history
