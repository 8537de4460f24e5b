"""Dynamic sparse training: what each method drops and grows, against its paper in numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.training.growth.snfs import MOMENTUM
from tests.training.small_steps import descend, loss_of, network, one_layer, push

LAYERS = {"0.weight": 0, "2.weight": 2}


def attached(method, sparsity=0.6, steps=60, rate=0.2, **settings):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return model, optimizer, sk.attach(model, optimizer, method, None, sparsity, steps, **settings)


def kept(run):
    return {name: mask.keep.numpy().copy() for name, mask in run.masks.items()}


def at_a_change(model, optimizer, run):
    """Weights and dense gradients that the change sees, the masks before and after, and the model's weights then.

    The step itself has a learning rate of 0.
    """
    before, weights = kept(run), {name: model.get_parameter(name).detach().numpy().copy() for name in LAYERS}
    optimizer.zero_grad()
    loss_of(model).backward()
    slopes = {name: model.get_parameter(name).grad.numpy().copy() for name in LAYERS}
    rate, optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"], 0.0
    optimizer.step()
    optimizer.param_groups[0]["lr"] = rate
    return weights, slopes, before, kept(run)


def smallest(weight, keep, count):
    """``keep`` without the ``count`` smallest of it."""
    stays = keep.flatten().copy()
    order = sorted(np.flatnonzero(stays), key=lambda i: abs(weight.flatten()[i]))
    stays[order[:count]] = False
    return stays.reshape(keep.shape)


def joined(survivors, scores, count):
    """``survivors`` and the ``count`` highest of the others."""
    found = survivors.flatten().copy()
    order = sorted(np.flatnonzero(~found), key=lambda i: -scores.flatten()[i])
    found[order[:count]] = True
    return found.reshape(survivors.shape)


def test_rigl_grows_the_largest_gradients_of_what_is_not_kept_and_the_function_stays():
    model, optimizer, run = attached(sk.RigL(every=5))
    moved = 0
    for step in range(0, 60, 5):
        descend(model, optimizer, 4 if step else 0)
        weights, slopes, before, after = at_a_change(model, optimizer, run)
        alpha = 0.15 * (1 + math.cos(math.pi * step / 45)) if 0 < step < 45 else 0.0
        for name in LAYERS:
            count = math.floor(alpha * before[name].sum() + 1e-9)
            survivors = smallest(weights[name], before[name], count)
            np.testing.assert_array_equal(after[name], joined(survivors, np.abs(slopes[name]), count))
            assert after[name].sum() == before[name].sum()
            moved += (after[name] & ~before[name]).sum()
            np.testing.assert_array_equal(
                model.get_parameter(name).detach().numpy(), weights[name] * (before[name] & after[name])
            )
        noted = dict(run._state.notes).get("drop_fraction", {"all": 0.0})["all"]
        assert noted == pytest.approx(alpha) or not 0 < step < 45
    assert moved > 40


def test_growth_does_not_change_the_outputs():
    model, optimizer, run = attached(sk.RigL(every=5))
    descend(model, optimizer, 5)
    weights, _, before, after = at_a_change(model, optimizer, run)
    dropped = network()
    dropped.load_state_dict(model.state_dict())
    for name in LAYERS:
        assert (after[name] & ~before[name]).any()
        dropped.get_parameter(name).data.copy_(torch.from_numpy(weights[name] * (before[name] & after[name])))
    inputs = torch.randn(8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert torch.equal(model(inputs), dropped(inputs))


def test_rigl_starts_with_the_densities_of_erdos_renyi_kernels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.RigL(), None, 0.95, 10)
    sizes, sums = (1152, 4608, 256), (8 + 16 + 6, 16 + 32 + 6, 32 + 8 + 2)
    scale = 0.05 * sum(sizes) / sum(sums)
    assert all(total * scale < size for total, size in zip(sums, sizes))
    for mask, total in zip(run.masks.values(), sums):
        assert mask.nnz == math.ceil(total * scale - 1e-6)


def test_first_masks_are_uniform_random_and_differ_by_seed():
    counts = np.zeros((4, 5))
    for seed in range(400):
        layer = nn.Linear(5, 4)
        layer.weight.data.copy_(torch.arange(20.0).reshape(4, 5))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        counts += kept(sk.attach(layer, optimizer, sk.SET(), None, 0.7, 5, seed=seed))["weight"]
    assert counts.sum() == 400 * 6
    assert np.abs(counts - 120).max() < 4.5 * np.sqrt(400 * 0.3 * 0.7)


def test_set_drops_the_share_of_either_sign_and_grows_at_random_among_zeros():
    model, optimizer, run = attached(sk.SET(every=5, zeta=0.25))
    places = set()
    descend(model, optimizer)
    for _ in range(11):
        descend(model, optimizer, 4)
        dropped = {site.name: run.method.drop(run._state, site).numpy() for site in run._state.sites}
        weights, _, before, after = at_a_change(model, optimizer, run)
        for name in LAYERS:
            flat, survivors = weights[name].flatten(), before[name].flatten().copy()
            for sign in (1, -1):
                own = sorted((i for i in np.flatnonzero(survivors) if flat[i] * sign > 0), key=lambda i: abs(flat[i]))
                survivors[own[: math.floor(0.25 * len(own) + 1e-9)]] = False
            survivors[flat == 0] = False
            after_flat = after[name].flatten()
            np.testing.assert_array_equal(before[name].flatten() & ~dropped[name].flatten(), survivors)
            assert (after_flat & survivors).sum() == survivors.sum()
            assert after_flat.sum() == before[name].sum()
            places |= {(name, i) for i in np.flatnonzero(after_flat & ~survivors)}
    assert len(places) > 120  # of 320 weights


def test_set_drops_kept_weights_that_are_exactly_zero():
    layer, optimizer, run = one_layer(torch.ones(1, 12), sk.SET(every=1), 0.5, 9)
    site = run._state.sites[0]
    push(layer, optimizer, torch.zeros(1, 12))
    site.hold(torch.tensor([[True] * 6 + [False] * 6]), optimizer)
    layer.weight.data[0, :6] = torch.tensor([0.0, 0.0, 3.0, -4.0, 5.0, -6.0])
    assert run.method.drop(run._state, site).tolist() == [[True] * 2 + [False] * 10]
    push(layer, optimizer, torch.zeros(1, 12))
    assert site.keep[0, 2:6].all()  # floor(0.3 * 2) of either sign is none
    assert site.keep.sum() == 6


def test_masks_rest_after_the_end():
    model, optimizer, run = attached(sk.SET(every=1, end=0.5), steps=20)
    seen = [kept(run)]
    for _ in range(20):
        descend(model, optimizer)
        seen.append(kept(run))
    changed = [any((one[name] != other[name]).any() for name in LAYERS) for one, other in pairwise(seen)]
    assert changed == [False] + [True] * 9 + [False] * 10


@pytest.mark.parametrize("method", [sk.SET(), sk.DSR(threshold=10.0), sk.SNFS(), sk.RigL()])
def test_what_the_pattern_cannot_cover_is_neither_dropped_nor_counted(method):
    values = [[4.0, 3.0, 2.0, 1.0, 0.1, 0.2]] * 10
    _, _, run = one_layer(values, method, None, 20, sk.NM(2, 4))
    site = run._state.sites[0]
    run._state.numbers["importance"] = {"weight": 1.0}
    dropped = method.drop(run._state, site)
    assert not dropped[:, 4:].any()
    assert int(dropped.sum()) == {sk.SET: 6, sk.DSR: 19, sk.SNFS: 10, sk.RigL: 6}[type(method)]


def test_snfs_shares_out_by_momentum_and_grows_the_largest():
    model, optimizer, run = attached(sk.SNFS(every=4, decay=0.8), 0.7, 40)
    slopes = {name: [] for name in LAYERS}
    for step in range(40):
        weights, gradients, before, after = at_a_change(model, optimizer, run)
        for name in LAYERS:
            slopes[name].append(gradients[name])
            total = sum(0.2 * 0.8 ** (step - t) * slope for t, slope in enumerate(slopes[name]))
            np.testing.assert_allclose(run._state.sites[list(LAYERS).index(name)].tensors[MOMENTUM].numpy(), total)
        if step and step % 4 == 0:
            check_snfs(run, step, weights, before, after)
        else:
            assert all((after[name] == before[name]).all() for name in LAYERS)
        for name, site in zip(LAYERS, run._state.sites):  # move, and leave step and momentum as they are
            model.get_parameter(name).data.sub_(site.gradient() * site.keep, alpha=0.3)
    assert run.finish()["0.weight"].nnz != 58


def check_snfs(run, step, weights, before, after):
    momenta = {name: np.abs(site.tensors[MOMENTUM].numpy()) for name, site in zip(LAYERS, run._state.sites)}
    means = {name: momenta[name][before[name]].mean() for name in LAYERS}
    shares = dict(run._state.notes)["importance"]
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    drop = 0.005 + 0.495 * 0.5 * (1 + math.cos(math.pi * step / 40))
    assert dict(run._state.notes)["drop_fraction"]["all"] == pytest.approx(drop)
    dropped = {name: math.ceil(drop * before[name].sum() - 1e-9) for name in LAYERS}
    total = sum(dropped.values())
    grown = {}
    for name in LAYERS:
        assert shares[name] == pytest.approx(means[name] / sum(means.values()))
        survivors = smallest(weights[name], before[name], dropped[name])
        grown[name] = int(after[name].sum() - survivors.sum())
        np.testing.assert_array_equal(after[name], joined(survivors, momenta[name], grown[name]))
        assert abs(grown[name] - total * shares[name]) < 1
    assert sum(grown.values()) == total


def test_snfs_spares_layers_that_are_nearly_dense_and_shall_grow():
    _, _, run = attached(sk.SNFS(every=1), 0.1, 9)
    method, state = run.method, run._state
    state.numbers["importance"] = {"0.weight": 0.9, "2.weight": 0.1}
    assert [int(method.drop(state, site).sum()) for site in state.sites] == [
        math.ceil(19 / 192 * 173),  # as large a share as it has zeros
        math.ceil(0.5 * 116),
    ]


def test_dsr_moves_its_threshold_by_factors_of_two_and_weights_to_where_they_survive():
    model, optimizer, run = attached(sk.DSR(every=3, threshold=0.01, count=12), 0.6, 120)
    threshold, trajectory = 0.01, []
    descend(model, optimizer)
    for _ in range(39):
        descend(model, optimizer, 2)
        assert run._state.numbers["threshold"] == threshold
        weights, _, before, after = at_a_change(model, optimizer, run)
        dropped, survivors = {}, {}
        for name in LAYERS:
            small = (np.abs(weights[name]) < threshold) & before[name]
            dropped[name] = min(int(small.sum()), int(before[name].sum()) - 1)
            survivors[name] = smallest(weights[name], before[name], dropped[name])
            assert not (survivors[name] & ~after[name]).any()
        total, staying = sum(dropped.values()), sum(keep.sum() for keep in survivors.values())
        assert sum(keep.sum() for keep in after.values()) == 320 - 192 + 1  # of 320, floor(0.6 * n) of each layer go
        for name in LAYERS:
            assert abs(after[name].sum() - survivors[name].sum() * (1 + total / staying)) < 1
        threshold *= 2 if total < 0.9 * 12 else 0.5 if total > 1.1 * 12 else 1
        trajectory.append(math.log2(threshold / 0.01))
    assert len(set(trajectory)) > 3
    assert all(power == int(power) for power in trajectory)
    assert min(np.diff(trajectory)) < 0 < max(np.diff(trajectory))


def test_dsr_never_empties_a_layer():
    model, optimizer, run = attached(sk.DSR(every=1, threshold=1e9, count=1000), 0.6, 20)
    descend(model, optimizer, 2)
    largest = {name: np.abs(model.get_parameter(name).detach().numpy()).argmax() for name in LAYERS}
    total = sum(keep.sum() for keep in kept(run).values())
    *_, after = at_a_change(model, optimizer, run)
    assert sum(keep.sum() for keep in after.values()) == total
    assert all(after[name].flatten()[largest[name]] for name in LAYERS)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *[(kind, {"every": 0}) for kind in (sk.SET, sk.DSR, sk.SNFS, sk.RigL)],
        *[(sk.RigL, {"alpha": 1.5}), (sk.RigL, {"end": 2.0}), (sk.SET, {"zeta": -0.1}), (sk.SNFS, {"decay": 1.0})],
        *[(sk.SNFS, {"start": 2.0}), (sk.DSR, {"threshold": 0.0}), (sk.DSR, {"count": 0})],
    ],
)
def test_settings_that_make_no_sense(kind, settings):
    with pytest.raises(sk.PruningError, match=f"{next(iter(settings))}: expected"):
        kind(**settings)
