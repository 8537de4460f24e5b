"""CHITA against ridge regression and all supports there are."""

import itertools
import warnings

import pytest
import torch
from torch import nn

from sparsekit.errors import CalibrationError, PruningError, SparsekitWarning
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import CHITA, LayerProblem, LayerStatistics, SampleGradients, prune
from sparsekit.pruning.solvers.chita import Descent
from tests.pruning.surgery import fisher, problem, runs

SETTINGS = [(Unstructured(), 0.5), (Unstructured(), 0.8), (NM(2, 4), 0.5), (Block(2, 2), 0.5)]
SIZES = [4, 7, 24, 100]


def objective(given, weight, size, damping=0.05, first_order=False):
    """As it is defined, by the samples' gradients in blocks, over n."""
    gradients, loss = given.stats[SampleGradients].samples.flatten(1), 0.0
    lambda_ = damping * float(gradients.square().mean())
    delta = (weight - given.weight).flatten()
    for block in runs(delta.numel(), size):
        residual = gradients[:, block] @ delta[block]
        loss += float(residual.square().mean() / 2 + lambda_ / 2 * delta[block].square().sum())
    return loss + (float((gradients.mean(dim=0) * delta).sum()) if first_order else 0.0)


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("pattern", "sparsity"), SETTINGS, ids=str)
@pytest.mark.parametrize("first_order", [False, True])
def test_weights_are_the_ridge_solution_on_their_support(n, size, pattern, sparsity, first_order):
    given = problem((4, 8), n, pattern, sparsity)
    found = CHITA(0.05, size, first_order=first_order).solve(given)
    assert pattern.admits(found.keep)
    assert int(found.keep.sum()) == 32 - int(sparsity * 32)
    matrix, w = fisher(given, 0.05, runs(32, size)), given.weight.flatten()
    linear = given.stats[SampleGradients].mean.flatten() if first_order else torch.zeros_like(w)
    keep = found.keep.flatten()
    best = torch.linalg.solve(matrix[keep][:, keep], matrix[keep] @ w - linear[keep])
    torch.testing.assert_close(found.weight.flatten()[keep], best, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize(("pattern", "sparsity"), SETTINGS, ids=str)
def test_the_objective_never_rises(n, pattern, sparsity):
    given = problem((8, 12), n, pattern, sparsity)
    method = CHITA(0.05, 16)
    search = Descent(method, given, method._loss(given))
    search.run()
    assert len(search.values) > 3
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(search.values))
    end = given.weight + search.loss.flat(search.delta)
    assert search.values[-1] == pytest.approx(objective(given, end, 16))
    start = given.weight * search.loss.flat(search._choice(search.loss.weight))
    assert search.values[0] == pytest.approx(objective(given, start, 16))


def test_the_search_improves_on_its_start():
    """On supports, not only on the weights of the first one."""
    better = 0
    for seed in range(10):
        given = problem((8, 12), 40, sparsity=0.6, seed=seed)
        found = CHITA(0.01, 96).solve(given)
        first = Unstructured().select(CHITA(0.01).score(given), 0.6)
        matrix, w, keep = fisher(given, 0.01, [range(96)]), given.weight.flatten(), first.flatten()
        best = torch.zeros_like(w)
        best[keep] = torch.linalg.solve(matrix[keep][:, keep], matrix[keep] @ w)
        values = [objective(given, weight, 96, 0.01) for weight in (found.weight, best.reshape(8, 12))]
        assert values[0] <= values[1] * (1 + 1e-9)
        better += values[0] < 0.95 * values[1]
    assert better >= 8


def test_close_to_the_best_of_all_supports():
    ratios = []
    for seed in range(20):
        given = problem((2, 5), 30, seed=seed)
        matrix, w = fisher(given, 0.05, [range(10)]), given.weight.flatten()
        values = []
        for support in itertools.combinations(range(10), 5):
            keep, weight = list(support), torch.zeros_like(w)
            weight[keep] = torch.linalg.solve(matrix[keep][:, keep], matrix[keep] @ w)
            values.append(objective(given, weight.reshape(2, 5), 10))
        own = objective(given, CHITA(0.05, 10).solve(given).weight, 10)
        ratios.append(own / min(values))
        assert own >= min(values) * (1 - 1e-9)
        assert own < sorted(values)[len(values) // 10]
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= 8


@pytest.mark.parametrize("size", [7, 100])
def test_much_damping_ends_in_magnitude(size):
    given = problem(n=20)
    found = CHITA(1e9, size).solve(given)
    assert torch.equal(found.keep, Unstructured().select(given.weight.abs(), 0.5))
    torch.testing.assert_close(found.weight, given.weight * found.keep, rtol=0, atol=1e-6)


def test_the_score_is_the_diagonal_s():
    given = problem()
    gradients = given.stats[SampleGradients].samples
    diagonal = gradients.square().mean(dim=0) + 0.05 * gradients.square().mean()
    torch.testing.assert_close(CHITA(0.05).score(given), diagonal * given.weight.square() / 2)


def test_single_precision_ends_close_to_double():
    given = problem((8, 12), 30)
    samples = given.stats[SampleGradients]
    stats = LayerStatistics("", {SampleGradients: SampleGradients(samples.samples.float(), samples.counts)})
    for size in (8, 96):
        single = CHITA(0.05, size).solve(LayerProblem("", given.weight.float(), stats, Unstructured(), 0.5))
        assert single.weight.dtype == torch.float32
        double = CHITA(0.05, size).solve(given)
        value = objective(given, double.weight, size)
        assert objective(given, single.weight.double(), size) == pytest.approx(value, rel=1e-3)


def test_no_damping_is_damped_where_that_is_singular():
    with pytest.warns(SparsekitWarning, match="damping of 0; singular blocks"):
        found = CHITA(0.0).solve(problem(n=2))
    assert found.weight.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CHITA().solve(problem(n=2))


def test_gradients_that_are_all_zero_name_the_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].bias, -1e3)
    batches = [torch.randn(8, 4)]
    with pytest.raises(CalibrationError, match=r"0\.weight: expected gradients of the loss"):
        prune(model, CHITA(), sparsity=0.5, batches=batches, loss_fn=lambda m, x: m(x).square().mean())


def test_steps_take_new_gradients():
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)), []

    def loss_fn(model, batch):
        seen.append(float((model[0].weight == 0).float().mean()))
        return model(batch).square().mean()

    prune(model, CHITA(steps=2), sparsity=0.75, batches=[torch.randn(8, 6)], loss_fn=loss_fn)
    assert seen == [0.0, 0.5]
    assert float((model[0].weight == 0).float().mean()) == 0.75


@pytest.mark.parametrize(
    "options", [{"damping": -1}, {"block_size": 0}, {"iterations": 0}, {"cycles": 0}, {"steps": 0}]
)
def test_impossible_options(options):
    with pytest.raises(PruningError, match="expected damping >= 0 and block_size, iterations, cycles and steps >= 1"):
        CHITA(**options)
