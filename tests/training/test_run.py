"""A run: where it acts, what it leaves behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparsekit as sk


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 20, generator=generator), torch.randn(64, 16, generator=generator)


def train(model, optimizer, run, steps):
    inputs, targets = data()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean() + run.penalty()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("method", [sk.GradualPruning(), sk.SelectiveWeightDecay()])
def test_the_loop_of_the_readme_prunes_and_leaves_nothing(method):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    run = sk.attach(model, optimizer, method, sparsity=0.75, steps=20)
    train(model, optimizer, run, 20)
    masks = run.finish()
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask.keep].any()
    assert sum(mask.nnz for mask in masks.values()) == (20 * 32 + 32 * 16) // 4
    assert pickle.loads(pickle.dumps(model)) is not model
    assert not copy.deepcopy(optimizer)._optimizer_step_pre_hooks


def test_sr_ste_keeps_two_of_four():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    run = sk.attach(model, optimizer, sk.SRSTE(), steps=5)
    train(model, optimizer, run, 5)
    assert all(mask.pattern == sk.NM(2, 4) and mask.sparsity == 0.5 for mask in run.finish().values())


def test_large_gradients_are_finite():
    """The sum of these is not, in the precision that they come in."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    run = sk.attach(model, optimizer, sk.GradualPruning(), sparsity=0.5, steps=2)
    model.weight.grad = torch.full((4, 4), 3e38)
    optimizer.step()
    assert run.stopped is None
