"""What all of dynamic sparse training keeps: counts, legality, and the optimizer's memory of what did not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk
from sparsekit.patterns import NM, VNM, Block, Channel, Filter, TransposableNM, Unstructured
from sparsekit.training.growth.moves import in_proportion
from tests.training.small_steps import descend, loss_of, network

METHODS = [sk.SET(every=1), sk.DSR(every=1, threshold=0.05), sk.SNFS(every=1), sk.RigL(every=1)]
PATTERNS = [Unstructured(), NM(2, 4), NM(1, 4), NM(3, 5), Block(2, 4), Block(3, 5), Filter(), Channel()]
PATTERNS += [TransposableNM(2, 4), VNM(4, 2, 8)]
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@given(
    pattern=st.sampled_from(PATTERNS),
    shapes=st.lists(st.tuples(st.integers(5, 12), st.integers(8, 22)), min_size=1, max_size=3),
    sparsity=st.sampled_from([0.0, 0.1, 0.5, 0.85]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_masks_stay_legal_and_the_number_of_units_constant(method, pattern, shapes, sparsity, seed):
    torch.manual_seed(seed)
    model = nn.ModuleList([nn.Linear(inputs, outputs) for outputs, inputs in shapes])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    asked = None if pattern.fixes_sparsity else sparsity
    run = sk.attach(model, optimizer, method, pattern, asked, 12, seed=seed)
    by_layer, total = counts(run), sum(counts(run).values())
    for _ in range(14):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
        found = counts(run)  # reading the masks checks that they are legal
        assert sum(found.values()) == total
        if isinstance(method, (sk.SET, sk.RigL)) or pattern.fixes_sparsity:
            assert found == by_layer
        for name, mask in run.masks.items():
            assert not model.get_parameter(name)[~mask.keep].any()
            if isinstance(pattern, NM):
                groups = mask.keep[:, : mask.shape[1] // pattern.m * pattern.m].reshape(-1, pattern.m)
                assert (groups.sum(dim=1) == pattern.n).all()
    assert counts(run) == {name: count_units(mask) for name, mask in run.finish().items()}


def count_units(mask):
    return mask.nnz if mask.pattern.fixes_sparsity else int((mask.pattern.pool(mask.keep.double()) > 0).sum())


def counts(run):
    return {name: count_units(mask) for name, mask in run.masks.items()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_what_changes_starts_with_an_empty_memory_and_nothing_else_does(method, kind):
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    run = sk.attach(model, optimizer, method, None, 0.6, 60)
    changes = 0
    descend(model, optimizer, 5)
    for _ in range(6):
        descend(model, optimizer)
        optimizer.zero_grad()
        loss_of(model).backward()
        sites = run._state.sites
        before = [[memory.clone() for memory in site.remembered(optimizer)] for site in sites]
        keeps = [site.keep.clone() for site in sites]
        with torch.no_grad():
            run.method.before_step(run._state)
        for site, memories, keep in zip(sites, before, keeps):
            changed = site.keep != keep
            changes += int((site.keep & changed).sum())
            assert len(memories) == (1 if kind == "sgd" else 2)
            for old, new in zip(memories, site.remembered(optimizer)):
                assert not new[changed].any()
                assert torch.equal(new[~changed], old[~changed])
                assert (new[site.keep & ~changed] != 0).double().mean() > 0.5
            assert not site.read()[changed].any()
    assert changes > 10


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_resumed_run_goes_on_bit_for_bit(method):
    whole, half = network(), network()
    optimizers = [OPTIMIZERS["adamw"](model.parameters()) for model in (whole, half)]
    runs = [
        sk.attach(model, optimizer, method, None, 0.6, 20, seed=3)
        for model, optimizer in zip((whole, half), optimizers)
    ]
    descend(whole, optimizers[0], 20)
    descend(half, optimizers[1], 9)
    saved = (runs[1].state_dict(), half.state_dict(), optimizers[1].state_dict())
    resumed = network(seed=5)
    optimizer = OPTIMIZERS["adamw"](resumed.parameters())
    run = sk.attach(resumed, optimizer, method, None, 0.6, 20, seed=4)
    resumed.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    run.load_state_dict(saved[0])
    descend(resumed, optimizer, 11)
    for name, mask in runs[0].finish().items():
        assert torch.equal(mask.keep, run.finish()[name].keep)
        assert torch.equal(whole.get_parameter(name), resumed.get_parameter(name))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_shares_are_in_proportion_as_far_as_there_is_room(data):
    size = data.draw(st.integers(1, 6))
    rooms = data.draw(st.lists(st.integers(0, 200), min_size=size, max_size=size))
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))
    total = data.draw(st.integers(0, sum(rooms)))
    names = [str(i) for i in range(size)]
    found = in_proportion(dict(zip(names, weights)), dict(zip(names, rooms)), total)
    assert sum(found.values()) == total
    low, high = 0.0, 1e6  # the water level, by bisection
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(r, level * w) for r, w in zip(rooms, weights)) < total else (low, level)
    for name, room, weight in zip(names, rooms, weights):
        assert 0 <= found[name] <= room
        assert abs(found[name] - min(room, high * weight)) < 1 + 1e-6


def test_what_has_no_weight_takes_only_what_is_left():
    assert in_proportion({"a": 0.0, "b": 2.0}, {"a": 5, "b": 5}, 4) == {"a": 0, "b": 4}
    assert in_proportion({"a": 0.0, "b": 2.0}, {"a": 5, "b": 5}, 8) == {"a": 3, "b": 5}
    assert in_proportion({"a": 0.0, "b": 0.0}, {"a": 3, "b": 3}, 4) == {"a": 2, "b": 2}
    assert in_proportion({"a": 1.0}, {"a": 0}, 0) == {"a": 0}
    assert math.isfinite(sum(in_proportion({"a": 1e-300, "b": 1.0}, {"a": 9, "b": 9}, 10).values()))
