"""Gradual pruning, soft filter pruning and ASP against what their papers say in numbers."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.training.masking.gradual import STORED
from tests.training.small_steps import descend, network, one_layer, push


@pytest.mark.parametrize(("begin", "end", "initial"), [(0.0, 0.75, 0.0), (0.1, 0.9, 0.25), (0.0, 0.37, 0.5), (1, 1, 0)])
def test_gradual_sparsity_is_the_cubic_at_every_choice_and_holds_between(begin, end, initial):
    model, steps, every = network(), 40, 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    run = sk.attach(
        model, optimizer, sk.GradualPruning(begin=begin, end=end, every=every, initial=initial), None, 0.9, 40
    )
    first, last, target = int(begin * steps + 0.5), int(end * steps + 0.5), 0.0
    for step in range(steps + 1):
        if step:
            descend(model, optimizer)
        if step == last or (first <= step < last and (step - first) % every == 0):
            target = 0.9 if step >= last else 0.9 + (initial - 0.9) * (1 - (step - first) / (last - first)) ** 3
        for name, size in (("0.weight", 192), ("2.weight", 128)):
            zeros = int(target * size + 1e-7)
            assert run.masks[name].nnz == size - zeros, step
            assert int((model.get_parameter(name) == 0).sum()) == zeros


def test_removed_weights_return_with_the_value_that_they_had():
    method = sk.GradualPruning(initial=0.5, every=1, end=0.5)
    layer, optimizer, run = one_layer([[1.0, 2.0, 3.0, 4.0]], method, 0.5, 8, momentum=0.9)
    assert layer.weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    push(layer, optimizer, [[7.0, 7.0, 0.0, 3.5]])
    assert layer.weight.tolist() == [[0.0, 2.0, 3.0, 0.0]]  # 4 has become 0.5, and 2 was stored
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[0.0, 0.0, 0.0, 0.0]]
    push(layer, optimizer, [[0.0, 1.8, 0.0, 0.0]])
    assert layer.weight.tolist() == [[1.0, 0.0, 3.0, 0.0]]
    push(layer, optimizer, [[0.7, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(layer.weight.tolist(), [[0.0, 0.0, 3.0, 0.5]])
    push(layer, optimizer, [[0.0, 0.0, 0.0, 0.0]])
    assert STORED not in run._state.sites[0].tensors  # the ramp has ended
    push(layer, optimizer, [[0.0, 0.0, 0.0, 0.6]])
    assert run.finish()["weight"].keep.tolist() == [[False, False, True, True]]


def test_finishing_before_the_ramp_ends_meets_the_target():
    method = sk.GradualPruning(initial=0.5, every=9)
    layer, optimizer, run = one_layer([[1.0, 2.0, 3.0, 4.0]], method, 0.75, 40)
    push(layer, optimizer, [[0.0, 0.0, 2.5, 3.5]])
    run.finish()
    assert layer.weight.tolist() == [[0.0, 2.0, 0.0, 0.0]]
    assert not run._state.sites[0].tensors


def test_a_criterion_by_row_prunes_every_row_alike_with_statistics_of_the_pruned_model():
    model, batches = network(dtype=torch.float32), [torch.randn(16, 12)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sk.GradualPruning(sk.Wanda(), initial=0.5, end=0.5, every=2)
    run = sk.attach(model, optimizer, method, None, 0.75, 4, batches=batches)
    for _ in range(4):
        model(batches[0]).sum().backward()
        optimizer.step()
    assert (run.masks["0.weight"].keep.sum(dim=1) == 3).all()
    assert (run.masks["2.weight"].keep.sum(dim=1) == 4).all()


def test_each_layer_of_a_list_gets_to_its_own_sparsity():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    share = sk.PerLayer({"0": 0.5, "2": 0.75})
    run = sk.attach(model, optimizer, sk.GradualPruning(every=2), steps=20, allocation=share)
    seen = []
    for _ in range(20):
        descend(model, optimizer)
        seen.append(run.masks["2.weight"].nnz)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 4
    assert [mask.nnz for mask in run.finish().values()] == [96, 32]


def test_a_fixed_pattern_is_chosen_anew_until_the_ramp_ends():
    method = sk.GradualPruning(every=1, end=0.5)
    layer, optimizer, run = one_layer([[1.0, 2.0, 3.0, 4.0]], method, None, 4, sk.NM(2, 4))
    push(layer, optimizer, [[0.0, 0.0, 2.5, 0.0]])
    assert run.masks["weight"].keep.tolist() == [[False, True, False, True]]
    push(layer, optimizer, [[0.0, 0.0, 0.0, 0.0]])
    push(layer, optimizer, [[0.0, 1.9, 0.0, 0.0]])
    assert run.finish()["weight"].keep.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "magnitude"}, "criterion: expected a Criterion"),
        ({"criterion": sk.Magnitude}, r"write Magnitude\(\.\.\.\)"),
        ({"criterion": sk.ThresholdMagnitude(1.0)}, "criterion: expected one that ranks"),
        ({"begin": 0.5, "end": 0.25}, "end: expected"),
        ({"every": 0}, "every: expected"),
        ({"initial": 0.9}, r"initial: expected at most the sparsity 0\.5"),
    ],
)
def test_gradual_settings_that_make_no_sense(settings, message):
    with pytest.raises(sk.PruningError, match=message):
        one_layer([[1.0, 2.0]], sk.GradualPruning(**settings), 0.5, 4)


@pytest.mark.parametrize("method", [sk.GradualPruning, sk.SoftFilterPruning])
def test_a_criterion_without_its_data_is_refused_before_anything_changes(method):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for criterion, batches in ((sk.Wanda(), None), (sk.SNIP(), [torch.randn(2, 12)])):
        with pytest.raises(sk.CalibrationError, match=r"batches: Wanda|loss_fn: SNIP"):
            sk.attach(model, optimizer, method(criterion), sparsity=0.5, steps=4, batches=batches)
    with pytest.raises(sk.PruningError, match="within a row only"):
        sk.attach(
            model, optimizer, method(sk.Wanda()), None, 0.5, 4, batches=[torch.randn(2, 12)], allocation=sk.Global()
        )


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 7, 3)).double()


def zero_filters(weight):
    return (weight.detach().flatten(1).numpy() == 0).all(axis=1)


def test_soft_filters_are_zeroed_by_their_norm_and_come_back_in_one_step():
    model, inputs = convolutions(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = sk.attach(model, optimizer, sk.SoftFilterPruning(every=3), sparsity=0.45, steps=9)
    plain = convolutions()
    twin = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    for step in range(1, 10):
        for net, stepper in ((model, optimizer), (plain, twin)):
            stepper.zero_grad()
            net(inputs).square().mean().backward()
            stepper.step()
        for index, gone in ((0, 4), (3, 3)):
            assert zero_filters(model[index].weight).sum() == (gone if step % 3 == 0 else 0)
            norms = np.linalg.norm(plain[index].weight.detach().flatten(1).numpy(), axis=1)
            if step == 3:
                assert set(np.flatnonzero(zero_filters(model[index].weight))) == set(np.argsort(norms)[:gone])
    assert zero_filters(model[3].weight).sum() == 3
    model(inputs).square().mean().backward()
    optimizer.step()
    assert zero_filters(model[3].weight).sum() == 3  # the run is over, and holds them
    assert [int((~mask.keep.flatten(1).any(dim=1)).sum()) for mask in run.finish().values()] == [4, 3]


def test_soft_filters_keep_their_momentum_and_are_shown_on_request():
    layer, optimizer, run = one_layer([[1.0, 1.0], [2.0, 2.0]], sk.SoftFilterPruning(every=1), 0.5, 10, momentum=0.5)
    push(layer, optimizer, [[0.25, 0.0], [0.0, 0.0]])
    assert layer.weight.tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[0.25, 0.0], [0.0, 0.0]]
    push(layer, optimizer, [[-5.0, 0.0], [0.0, 0.0]])
    assert layer.weight.tolist() == [[4.875, 0.0], [0.0, 0.0]]
    layer.weight.data[1] = 0.25
    with run.evaluating():
        assert layer.weight.tolist() == [[4.875, 0.0], [0.0, 0.0]]
    assert layer.weight.tolist() == [[4.875, 0.0], [0.25, 0.25]]


def best_of_six(group):
    """The pattern of two in four that keeps most, by trying all."""
    return max(combinations(range(4), 2), key=lambda pair: abs(group[pair[0]]) + abs(group[pair[1]]))


@pytest.mark.parametrize("layer", [nn.Linear(16, 6), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3)], ids=str)
def test_asp_keeps_the_best_of_six_patterns_of_each_group_for_good(layer):
    model = nn.Sequential(layer)
    dense = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    run = sk.attach(model, optimizer, sk.ASP(), steps=4)
    expected = np.zeros((6, dense[0].numel()), dtype=bool)
    for row, values in enumerate(dense.flatten(1).tolist()):
        for start in range(0, len(values), 4):
            expected[row, [start + i for i in best_of_six(values[start : start + 4])]] = True
    for step in range(5):
        keep = run.masks["0.weight"].keep.flatten(1).numpy()
        np.testing.assert_array_equal(keep, expected)
        assert not layer.weight.detach().flatten(1).numpy()[~expected].any()
        assert step == 0 or (layer.weight != dense).flatten(1).numpy()[expected].all()
        model(torch.ones(2, 16) if isinstance(layer, nn.Linear) else torch.ones(2, 8, 5, 5)).square().sum().backward()
        optimizer.step()
    assert run.finish()["0.weight"].sparsity == 0.5
