"""Small networks and steps that tests of training methods share."""

import torch
from torch import nn

import sparsekit as sk


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8)).to(dtype)


def loss_of(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, 12, generator=generator, dtype=torch.float64)
    targets = torch.randn(32, 8, generator=generator, dtype=torch.float64)
    return (model(inputs) - targets).square().mean()


def descend(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def one_layer(values, method, sparsity, steps, pattern=None, **settings):
    """A Linear of the weights ``values``, its optimizer and its run; gradients are the test's own."""
    weight = torch.as_tensor(values, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, **settings)
    return layer, optimizer, sk.attach(layer, optimizer, method, pattern, sparsity, steps)


def push(layer, optimizer, gradient):
    """One step by ``gradient``."""
    layer.weight.grad = torch.as_tensor(gradient, dtype=torch.float64).clone()
    optimizer.step()
