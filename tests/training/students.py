"""A small network to teach, its data, and what watches it."""

import copy

import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 8)).double()


def data(seed=1):
    return torch.randn(16, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def perturbed(model):
    """A copy of ``model`` with other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for index, weight in enumerate(other.parameters()):
            draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            weight.add_(draw, alpha=0.3)
    return other


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
