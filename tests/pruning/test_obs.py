"""OBS against least squares and a search that inverts what is left each time."""

import pytest
import torch
from torch import nn

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import OBS, Gram, LayerProblem, LayerStatistics, prune
from tests.pruning.surgery import fisher, problem, surgery

PATTERNS = [(Unstructured(), 0.5), (Unstructured(), 0.8), (NM(2, 4), 0.5), (Block(1, 3), 0.5), (Block(2, 2), 0.5)]


def correlated(tokens, columns):
    return torch.randn(tokens, columns, dtype=torch.float64) @ torch.randn(columns, columns, dtype=torch.float64)


def layer(inputs, rows=4, pattern=Unstructured(), sparsity=0.5):  # noqa: B008
    gram = Gram(1, inputs.shape[1], inputs[:0])
    gram.add(inputs[None])
    weight = torch.randn(rows, inputs.shape[1], dtype=torch.float64)
    return LayerProblem("fc.weight", weight, LayerStatistics("fc.weight", {Gram: gram}), pattern, sparsity)


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS, ids=str)
@pytest.mark.parametrize("columns", [9, 40])
def test_weights_are_least_squares_on_their_support(pattern, sparsity, columns):
    """The best approximation of each output from the inputs that are left, by lstsq; 40 columns are made smaller."""
    torch.manual_seed(0)
    inputs = correlated(80, columns)
    given = layer(inputs, 4, pattern, sparsity)
    found = OBS(damping=0.0).solve(given)
    assert pattern.admits(found.keep)
    asked = None if pattern.fixes_sparsity else sparsity
    assert found.keep.sum() == pattern.select(given.weight, asked).sum()
    for row, weight, keep in zip(found.weight, given.weight, found.keep):
        best = torch.linalg.lstsq(inputs[:, keep], inputs @ weight).solution
        torch.testing.assert_close(row[keep], best, rtol=1e-6, atol=1e-8)


def test_the_search_takes_the_cheapest_weight_of_the_whole_layer():
    torch.manual_seed(1)
    inputs = correlated(60, 7)
    given = layer(inputs, 3)
    hessian = inputs.T @ inputs / 60
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(7, dtype=torch.float64)
    steps = surgery(torch.block_diag(hessian, hessian, hessian), given.weight.flatten(), range(21))
    for gone in (1, 4, 10, 17, 21):
        part = LayerProblem("", given.weight, given.stats, Unstructured(), gone / 21)
        found = OBS().solve(part)
        assert sorted((~found.keep.flatten()).nonzero().flatten().tolist()) == sorted(s[0] for s in steps[:gone])
        torch.testing.assert_close(found.weight.flatten(), steps[gone - 1][2], rtol=1e-8, atol=1e-10)


def test_gradients_couple_all_weights_of_a_layer():
    given = problem((3, 5), sparsity=0.6)
    matrix = fisher(given, 0.05, [range(15)])
    place, _, weight = zip(*surgery(matrix, given.weight.flatten(), range(15)))
    found = OBS("gradients", 0.05).solve(given)
    assert sorted((~found.keep.flatten()).nonzero().flatten().tolist()) == sorted(place[:9])
    torch.testing.assert_close(found.weight.flatten(), weight[8], rtol=1e-8, atol=1e-10)


def test_the_order_of_removal_does_not_matter():
    """Surgery in any order ends with the same weights on the same support."""
    torch.manual_seed(2)
    inputs = correlated(50, 8)
    given = layer(inputs, 1)
    found = OBS(damping=0.0).solve(given)
    hessian, w = inputs.T @ inputs / 50, given.weight[0].clone()
    left = list(range(8))
    for place in reversed((~found.keep[0]).nonzero().flatten().tolist()):
        inverse = torch.linalg.inv(hessian[left][:, left])
        i = left.index(place)
        w[left] -= w[place] / inverse[i, i] * inverse[i]
        left.pop(i)
    torch.testing.assert_close(found.weight[0, left], w[left], rtol=1e-7, atol=1e-9)


def test_a_diagonal_hessian_gives_the_order_of_optimal_brain_damage():
    torch.manual_seed(3)
    scale = torch.rand(8, dtype=torch.float64) + 0.5
    given = layer(torch.diag(scale), 4)
    found = OBS(damping=0.0).solve(given)
    assert torch.equal(found.keep, Unstructured().select(given.weight.square() * scale.square(), 0.5))
    torch.testing.assert_close(found.weight, given.weight * found.keep)


def test_dead_inputs_go_first():
    torch.manual_seed(4)
    inputs = correlated(50, 8)
    inputs[:, [1, 6]] = 0
    found = OBS().solve(layer(inputs))
    assert not found.keep[:, [1, 6]].any()
    assert OBS().solve(layer(inputs * 0)).weight.isfinite().all()


@pytest.mark.parametrize("method", [OBS(), OBS("gradients")], ids=str)
def test_a_layer_that_is_too_large_is_refused(method):
    model = nn.Sequential(nn.Linear(1025, 2))
    before = model[0].weight.clone()
    with pytest.raises(PruningError, match=r"0\.weight: expected at most 1024 weights in a .* third power, got .*CAP"):
        prune(model, method, sparsity=0.5, batches=[torch.randn(4, 1025)], loss_fn=lambda m, x: m(x).square().mean())
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("options", [{"hessian": "fisher"}, {"damping": -1.0}])
def test_impossible_options(options):
    with pytest.raises(PruningError, match="expected hessian to be one of gradients, inputs and damping >= 0"):
        OBS(**options)
