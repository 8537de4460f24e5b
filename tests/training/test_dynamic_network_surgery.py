"""Dynamic network surgery: what its two thresholds do to each weight, and what trains."""

import numpy as np
import pytest
import torch

import sparsekit as sk
from sparsekit.training.gates.base import LATENT
from sparsekit.training.gates.dynamic_network_surgery import RUNNING
from tests.training.small_steps import descend, loss_of, network, one_layer, push

ALWAYS = sk.DynamicNetworkSurgery(gamma=0.0, stop=1.0)


def thresholds(weight, c):
    """``t`` of a layer as the paper's code has it, by loops."""
    sizes = [abs(value) for value in weight.flatten().tolist()]
    mean = sum(sizes) / len(sizes)
    return max(0.0, mean + c * (sum((size - mean) ** 2 for size in sizes) / len(sizes)) ** 0.5)


def latent_of(run, index=0):
    return run._state.sites[index].tensors[LATENT]


@pytest.mark.parametrize(
    ("size", "kept_before", "kept_after"),
    [
        *[(0.5, True, False), (0.5, False, False)],  # below both
        *[(0.9, True, False), (0.9, False, False)],  # at the lower: cut off
        *[(0.95, True, True), (0.95, False, False), (1.05, True, True), (1.05, False, False)],  # between: as it is
        *[(1.1, True, True), (1.1, False, False)],  # at the upper: as it is
        *[(1.2, True, True), (1.2, False, True)],  # above both
    ],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_truth_table_of_the_two_thresholds(size, kept_before, kept_after, sign):
    first = 2.0 if kept_before else 0.0
    layer, optimizer, run = one_layer([[first, 8.0]], ALWAYS, None, 10)
    run._state.numbers["thresholds"]["weight"] = t = 2.0
    assert run.masks["weight"].keep.tolist() == [[False, True]]
    push(layer, optimizer, [[first - (4.0 if kept_before else 0.0), 0.0]])
    assert run.masks["weight"].keep.tolist() == [[kept_before, True]]
    push(layer, optimizer, [[float(latent_of(run)[0, 0]) - sign * (size * t), 0.0]])
    assert run.masks["weight"].keep.tolist() == [[kept_after, True]]
    assert layer.weight[0, 0].item() == pytest.approx(sign * size * t if kept_after else 0.0)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
def test_thresholds_are_those_of_the_start_for_ever(c):
    model = network()
    own = [thresholds(model[index].weight.detach(), c) for index in (0, 2)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    run = sk.attach(model, optimizer, sk.DynamicNetworkSurgery(c=c, gamma=0.0), steps=40)
    kept = [np.abs(latent_of(run, index).numpy()) > 0.9 * t for index, t in enumerate(own)]
    moved = 0
    for step in range(31):
        for index, (t, site) in enumerate(zip(own, run._state.sites)):
            np.testing.assert_allclose(run._state.numbers["thresholds"][site.name], t)
            size = np.abs(site.tensors[LATENT].numpy())
            if step:
                moved += (kept[index] != ((kept[index] & (size > 0.9 * t)) | (size > 1.1 * t))).sum()
            kept[index] = (kept[index] & (size > 0.9 * t)) | (size > 1.1 * t)
            np.testing.assert_array_equal(site.tensors[RUNNING].numpy(), kept[index])
        descend(model, optimizer)
    assert moved > 20
    descend(model, optimizer, 9)
    for keep, mask in zip(kept, run.finish().values()):
        np.testing.assert_array_equal(mask.keep.numpy(), keep)  # nothing changes after the stop


def test_the_gradient_at_the_masked_weights_trains_all_weights():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run = sk.attach(model, optimizer, ALWAYS, sparsity=0.6, steps=10)
    for _ in range(4):
        before = [latent_of(run, index).clone() for index in (0, 1)]
        masked = [(weight * site.tensors[RUNNING]).requires_grad_() for weight, site in zip(before, run._state.sites)]
        twin = network()
        twin.load_state_dict(model.state_dict())
        values = dict(zip(("0.weight", "2.weight"), masked))
        loss = loss_of(lambda inputs: torch.func.functional_call(twin, values, (inputs,)))  # noqa: B023
        slopes = torch.autograd.grad(loss, masked)
        descend(model, optimizer)
        for index, slope in enumerate(slopes):
            torch.testing.assert_close(latent_of(run, index), before[index] - 0.5 * slope)
            assert (slope[masked[index] == 0] != 0).double().mean() > 0.5


def test_the_share_of_steps_that_change_masks_is_the_probability():
    counts = []
    for power in (0.0, 1.0, 2.0):
        method = sk.DynamicNetworkSurgery(gamma=0.02, power=power, stop=1.0)
        layer, optimizer, run = one_layer([[1.0, 8.0]], method, None, 400)
        run._state.numbers["thresholds"]["weight"] = 2.0
        changes = 0
        for step in range(1, 400):  # the weight always lies where the mask has to flip
            keep = run._state.sites[0].tensors[RUNNING].clone()
            target = 0.5 if bool(keep[0, 0]) else 4.0
            push(layer, optimizer, [[float(latent_of(run)[0, 0]) - target, 0.0]])
            changes += int(not torch.equal(keep, run._state.sites[0].tensors[RUNNING]))
            assert dict(run._state.notes)["probability"]["all"] == pytest.approx((1 + 0.02 * step) ** -power)
        chances = np.array([(1 + 0.02 * step) ** -power for step in range(1, 400)])
        assert abs(changes - chances.sum()) <= 4 * np.sqrt((chances * (1 - chances)).sum())
        counts.append(changes)
    assert counts[0] == 399


@pytest.mark.parametrize("allocation", [sk.Uniform(), sk.Global()])
@pytest.mark.parametrize("steps", [0, 5, 12, 20])
def test_a_sparsity_is_met_at_the_start_and_at_the_end(allocation, steps):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    run = sk.attach(model, optimizer, sk.DynamicNetworkSurgery(), None, 0.75, 20, allocation=allocation)
    assert run.sparsity == 0.75
    descend(model, optimizer, steps)
    learned = torch.cat([latent_of(run, index).flatten() for index in (0, 1)]).abs()
    keep = torch.cat([mask.keep.flatten() for mask in run.finish().values()])
    assert int((~keep).sum()) == 240
    if allocation == sk.Global() and steps < 15:  # later, the masks are those of the stop
        np.testing.assert_array_equal(np.sort(np.argsort(-learned.numpy())[:80]), np.flatnonzero(keep.numpy()))
    for name, mask in run.finish().items():
        assert not model.get_parameter(name)[~mask.keep].any()


def test_units_go_by_their_mean_and_the_last_is_spared():
    weight = [[1.0, 1.0], [0.1, 0.3], [6.0, 0.0], [0.2, 0.2]]
    layer, optimizer, run = one_layer(weight, sk.DynamicNetworkSurgery(c=0.0, gamma=0.0), None, 10, sk.Filter())
    assert run._state.numbers["thresholds"]["weight"] == pytest.approx((1.0 + 0.2 + 3.0 + 0.2) / 4)
    assert run.masks["weight"].keep[:, 0].tolist() == [True, False, True, False]  # 1.0 lies above 0.9 * 1.1
    push(layer, optimizer, [[1.0, 1.0], [0.0, 0.0], [5.9, 0.0], [-5.0, 5.0]])
    assert run.masks["weight"].keep[:, 0].tolist() == [False, False, False, True]
    push(layer, optimizer, [[0.0, 0.0], [-0.1, 0.1], [0.0, 0.0], [5.1, -4.7]])
    assert run.masks["weight"].keep.sum() == 2


def test_a_fixed_pattern_exchanges_what_is_clearly_larger():
    layer, optimizer, run = one_layer([[1.0, 2.0, 3.0, 4.0]], ALWAYS, None, 10, sk.NM(2, 4))
    push(layer, optimizer, [[0.0, -1.6, 0.0, 0.0]])
    assert run.masks["weight"].keep.tolist() == [[False, False, True, True]]  # 3.6 is not 11 / 9 of 3
    push(layer, optimizer, [[0.0, -0.1, 0.0, 0.0]])
    assert run.masks["weight"].keep.tolist() == [[False, True, False, True]]
    push(layer, optimizer, [[0.0, 0.1, 0.0, 0.0]])
    assert run.masks["weight"].keep.tolist() == [[False, True, False, True]]


def test_evaluating_shows_what_would_stay():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    run = sk.attach(model, optimizer, sk.DynamicNetworkSurgery(), None, 0.75, 20)
    descend(model, optimizer, 4)
    before, learned = model[0].weight.detach().clone(), latent_of(run).clone()
    with run.evaluating():
        shown = model[0].weight.detach().clone()
    assert torch.equal(model[0].weight, before)
    mask = run.finish()["0.weight"]
    assert torch.equal(shown, model[0].weight)
    assert torch.equal(shown, learned * mask.keep)


@pytest.mark.parametrize("settings", [{"gamma": -1e-4}, {"power": -1.0}, {"stop": 1.5}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(sk.PruningError, match=f"{next(iter(settings))}: expected"):
        sk.DynamicNetworkSurgery(**settings)
