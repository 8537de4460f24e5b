"""Layers with inputs, for tests of methods that are calibrated."""

import torch

from sparsekit.patterns import Unstructured
from sparsekit.pruning import CrossGram, Gram, InputMean, InputNorm, LayerProblem, LayerStatistics


def correlated(tokens, columns, seed=0, dtype=torch.float64):
    """Inputs such as layers see: a few strong directions, and columns of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=dtype) / columns**0.5
    scale = torch.rand(columns, generator=generator, dtype=dtype) * 2 + 0.1
    return (torch.randn(tokens, columns, generator=generator, dtype=dtype) @ mix + 0.3) * scale


def collected(inputs, dense=None, groups=1):
    """Statistics of ``inputs`` ``(tokens, groups * columns)``, with those of the dense model where they differ."""
    dense = inputs if dense is None else dense
    rows, partners = (x.reshape(len(x), groups, -1).transpose(0, 1) for x in (inputs, dense))
    stats = {kind: kind(groups, rows.shape[2], inputs[:0]) for kind in (Gram, InputNorm, InputMean, CrossGram)}
    for kind, statistic in stats.items():
        statistic.add_pair(rows, partners) if kind is CrossGram else statistic.add(rows)
    return LayerStatistics("layer.weight", stats)


def layer_problem(weight, inputs, pattern=None, sparsity=0.5, dense=None, groups=1):
    stats = collected(inputs, dense, groups)
    return LayerProblem("layer.weight", weight, stats, pattern or Unstructured(), sparsity)


def best_on(support, inputs, outputs, damping=0.0, towards=None):
    """Row by row, the least squares of ``outputs`` ``(tokens, rows)`` on the kept columns, by an own solver.

    ``damping`` pulls towards the weight ``towards``; both are rows added to the problem.
    """
    best = torch.zeros(support.shape, dtype=torch.float64)
    pull = (damping * len(inputs)) ** 0.5 * torch.eye(inputs.shape[1], dtype=torch.float64)
    for row, kept in enumerate(support):
        left, right = inputs, outputs[:, row]
        if damping:
            left, right = torch.cat([inputs, pull]), torch.cat([right, pull @ towards[row]])
        best[row, kept] = torch.linalg.lstsq(left[:, kept], right[:, None]).solution[:, 0]
    return best


def output_error(weight, inputs, outputs):
    return float((inputs @ weight.T - outputs).square().sum())
