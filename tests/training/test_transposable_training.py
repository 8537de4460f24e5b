"""Transposable masks while a model trains."""

import copy
from itertools import pairwise, permutations

import pytest
import torch
from torch import nn

import sparsekit as sk


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).double()


def train(model, optimizer, steps, look=lambda step: None):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 4, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(32, 10, generator=generator, dtype=torch.float64)
    for step in range(steps):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
        look(step)


def every_mask():
    """All masks of a 4 x 4 block with two in each row and column: each the union of two permutations."""
    choices = set()
    for one in permutations(range(4)):
        for other in permutations(range(4)):
            if all(a != b for a, b in zip(one, other)):
                choices.add(frozenset((row, column) for order in (one, other) for row, column in enumerate(order)))
    assert len(choices) == 90
    return choices


CHOICES = every_mask()


def best_mask(block):
    """The best of the 90, by trying all of them."""
    values = block.abs().tolist()
    return max(CHOICES, key=lambda cells: sum(values[row][column] for row, column in cells))


def expect_best(keep, dense):
    """Each whole block of the matrix view keeps what is best."""
    matrix = dense.reshape(dense.shape[0], -1)
    keep = keep.reshape(matrix.shape)
    for row in range(0, matrix.shape[0] - 3, 4):
        for column in range(0, matrix.shape[1] - 3, 4):
            cells = keep[row : row + 4, column : column + 4].nonzero().tolist()
            assert set(map(tuple, cells)) == best_mask(matrix[row : row + 4, column : column + 4])


def legal(keep):
    """Two of four in each row of the matrix and of its transpose, over whole blocks."""
    matrix = keep.reshape(keep.shape[0], -1)
    high, wide = matrix.shape[0] // 4 * 4, matrix.shape[1] // 4 * 4
    for side in (matrix[:high, :wide], matrix[:high, :wide].T):
        if not side.reshape(-1, 4).sum(1).eq(2).all():
            return False
    return bool(matrix[high:].all() and matrix[:, wide:].all())


@pytest.mark.parametrize("make", [lambda w: torch.optim.SGD(w, 0.1, 0.9, weight_decay=1e-2), torch.optim.AdamW])
def test_masks_are_legal_both_ways_and_frozen_in_the_end(make):
    model = network()
    optimizer = make(model.parameters())
    run = sk.attach(model, optimizer, sk.TransposableTraining(every=4, freeze=0.6), steps=30)
    seen = []

    def look(step):
        masks = {name: mask.keep for name, mask in run.masks.items()}
        for name, keep in masks.items():
            assert legal(keep)
            assert torch.equal(model.get_parameter(name) != 0, keep)
        seen.append(masks)

    look(-1)
    train(model, optimizer, 30, look)
    changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(seen)]
    assert [step + 1 for step, new in enumerate(changed) if new] == [4, 8, 12, 16, 18]
    final = run.finish()
    assert all(torch.equal(final[name].keep, seen[18][name]) for name in final)


def test_each_mask_is_the_best_of_the_dense_weights():
    """Against dense weights that are trained by hand with the straight-through gradient."""
    model = network()
    twin = copy.deepcopy(model)
    optimizer, other = (torch.optim.SGD(net.parameters(), 0.1, 0.9) for net in (model, twin))
    names = ("0.weight", "3.weight")
    dense = {name: twin.get_parameter(name).detach().clone() for name in names}
    run = sk.attach(model, optimizer, sk.TransposableTraining(every=3, freeze=1.0), steps=30)

    def look(step):
        if (step + 1) % 3 == 0:
            for name in names:
                expect_best(run.masks[name].keep, dense[name])

    def after(*_):
        """Step the dense weights with the gradient that arrived at the masked ones."""
        for mine, theirs in zip(model.parameters(), twin.parameters()):
            theirs.grad = received[mine].clone()
        for name in names:
            twin.get_parameter(name).data.copy_(dense[name])
        other.step()
        for name in names:
            dense[name] = twin.get_parameter(name).detach().clone()

    received = {}
    for parameter in model.parameters():
        parameter.register_hook(lambda slope, parameter=parameter: received.__setitem__(parameter, slope.clone()))
    optimizer.register_step_post_hook(after)
    train(model, optimizer, 12, look)


def test_dense_phases_run_on_all_weights():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = sk.attach(model, optimizer, sk.TransposableTraining(every=5, dense=2, freeze=0.5), steps=20)
    zeros = []
    train(model, optimizer, 20, lambda step: zeros.append(bool((model[3].weight == 0).any())))
    # what a step leaves is what the next one runs on: steps 3, 4, 8 and 9 are dense
    assert [step + 1 for step, sparse in enumerate(zeros) if not sparse] == [3, 4, 8, 9]
    assert legal(run.finish()["3.weight"].keep)


@pytest.mark.parametrize(("decay", "wanted"), [(0.0, 1.0), (0.5, (1 - 0.1 * 0.5) ** 3)])
def test_removed_weights_decay(decay, wanted):
    layer = nn.Linear(4, 4, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    run = sk.attach(layer, optimizer, sk.TransposableTraining(decay=decay), steps=100)
    site = run._state.sites[0]
    first = site.tensors["latent"].clone()
    for _ in range(3):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
    assert torch.allclose(site.tensors["latent"], torch.where(site.keep, first, wanted * first))


def test_looking_changes_nothing():
    ends = []
    for looks in (True, False):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        run = sk.attach(model, optimizer, sk.TransposableTraining(every=4, decay=0.1), steps=20)

        def look(step, run=run, looks=looks):
            if looks:
                assert run.masks
                with run.evaluating():
                    pass

        train(model, optimizer, 20, look)
        run.finish()
        ends.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(*ends)


def test_what_cannot_be_is_refused():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(sk.PruningError, match="expected a TransposableNM, got NM"):
        sk.attach(model, optimizer, sk.TransposableTraining(), pattern=sk.NM(2, 4), steps=9)
    with pytest.raises(sk.PruningError, match="dense: expected a number of steps below every=4"):
        sk.TransposableTraining(every=4, dense=4)
