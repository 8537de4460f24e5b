"""Layers with given gradients, and optimal brain surgery on them by explicit inverses."""

import torch

from sparsekit.patterns import Unstructured
from sparsekit.pruning import LayerProblem, LayerStatistics, SampleGradients


def gradients(n, shape, seed=0):
    """Gradients with a mean, a few strong directions, and weights of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.Size(shape).numel()
    mix = torch.randn(p, p, generator=generator, dtype=torch.float64) / p**0.5
    scale = torch.rand(p, generator=generator, dtype=torch.float64) * 2 + 0.1
    return ((torch.randn(n, p, generator=generator, dtype=torch.float64) @ mix + 0.3) * scale).reshape(n, *shape)


def problem(shape=(4, 6), n=40, pattern=Unstructured(), sparsity=0.5, seed=0):  # noqa: B008
    samples = gradients(n, shape, seed)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 99), dtype=torch.float64)
    stats = LayerStatistics("fc.weight", {SampleGradients: SampleGradients(samples, torch.ones(n, dtype=torch.long))})
    return LayerProblem("fc.weight", weight, stats, pattern, sparsity)


def fisher(given, damping, blocks):
    """The whole damped matrix, zero between blocks: lists of places in the flattened weight."""
    g = given.stats[SampleGradients].samples.flatten(1)
    full = g.T @ g / len(g)
    full += damping * full.diagonal().mean() * torch.eye(len(full), dtype=g.dtype)
    same = torch.zeros_like(full, dtype=torch.bool)
    for block in blocks:
        places = torch.tensor(block)
        same[places[:, None], places] = True
    return full * same


def runs(count, size):
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def surgery(matrix, weight, block, legal=lambda gone: True):
    """Optimal brain surgery inside one block, by inverting what is left each time: (place, loss, weights) per step."""
    weight, left, steps, loss = weight.clone(), list(block), [], 0.0
    while True:
        inverse = torch.linalg.inv(matrix[left][:, left])
        cost = weight[left].square() / (2 * inverse.diagonal())
        may = [i for i, place in enumerate(left) if legal([s[0] for s in steps] + [place])]
        if not may:
            return steps
        i = min(may, key=lambda i: cost[i])
        loss += float(cost[i])
        weight[left] -= weight[left[i]] / inverse[i, i] * inverse[i]
        weight[left[i]] = 0
        steps.append((left[i], loss, weight.clone()))
        left.pop(i)
        if not left:
            return steps
