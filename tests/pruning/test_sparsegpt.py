import warnings

import pytest
import torch

from sparsekit.errors import PruningError, SparsekitWarning
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning.criteria import Magnitude, Wanda
from sparsekit.pruning.solvers import LayerProblem, SparseGPT
from sparsekit.pruning.solvers.sparsegpt import inverse_factor
from sparsekit.pruning.statistics import Gram, InputNorm, LayerStatistics

PATTERNS = [(Unstructured(), 0.5), (NM(2, 4), 0.5), (NM(1, 3), 2 / 3), (Block(4, 4), 0.5), (Block(3, 5), 0.4)]


def correlated(tokens, columns, seed=0, dtype=torch.float64):
    """Inputs such as layers see: a few strong directions, and columns of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=dtype) / columns**0.5
    scale = torch.rand(columns, generator=generator, dtype=dtype) * 2 + 0.1
    return (torch.randn(tokens, columns, generator=generator, dtype=dtype) @ mix + 0.3) * scale


def collect(inputs, groups=1):
    """Statistics of ``inputs`` ``(tokens, groups * columns)``."""
    rows = inputs.reshape(inputs.shape[0], groups, -1).transpose(0, 1)
    stats = {kind: kind(groups, rows.shape[2], inputs[:0]) for kind in (Gram, InputNorm)}
    for statistic in stats.values():
        statistic.add(rows)
    return LayerStatistics("layer.weight", stats)


def problem(weight, inputs, pattern=Unstructured(), sparsity=0.5, groups=1):  # noqa: B008
    return LayerProblem("layer.weight", weight, collect(inputs, groups), pattern, sparsity)


def damped(inputs, damping=0.01):
    hessian = inputs.T @ inputs / inputs.shape[0]
    return hessian + damping * hessian.diagonal().mean() * torch.eye(hessian.shape[0], dtype=inputs.dtype)


def naive(weight, inputs, keep):
    """Column by column, inverting what is left of H each time; only columns to the right are updated."""
    weight, hessian = weight.clone(), damped(inputs)
    for i in range(weight.shape[1]):
        inverse = torch.linalg.inv(hessian[i:, i:])
        gone = torch.where(keep[:, i], 0.0, weight[:, i])
        weight[:, i:] -= torch.outer(gone / inverse[0, 0], inverse[0])
        weight[~keep[:, i], i] = 0
    return weight


def least_squares(weight, inputs, keep):
    """The best weights there are on the same support, row by row."""
    hessian, best = damped(inputs), torch.zeros_like(weight)
    for row, (values, kept) in enumerate(zip(weight, keep)):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ values)
    return best


def error(before, after, hessian):
    return float(torch.einsum("ri,ij,rj->", before - after, hessian, before - after))


@pytest.mark.parametrize("block_size", [1, 7, 16, 128])
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS, ids=str)
def test_weights_equal_a_naive_reimplementation(pattern, sparsity, block_size):
    torch.manual_seed(0)
    weight, inputs = torch.randn(12, 21, dtype=torch.float64), correlated(64, 21)
    solution = SparseGPT(block_size=block_size).solve(problem(weight, inputs, pattern, sparsity))
    torch.testing.assert_close(solution.weight, naive(weight, inputs, solution.keep))
    assert pattern.admits(solution.keep)
    assert not solution.weight[~solution.keep].any()


def test_the_choice_equals_a_naive_one():
    """Per slab, the lowest w^2 / U_jj^2 of the weights as updated so far; N:M when its group is reached."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(6, 12, dtype=torch.float64), correlated(64, 12)
    keep = SparseGPT().solve(problem(weight, inputs, NM(2, 4))).keep
    hessian, current = damped(inputs), weight.clone()
    for i in range(12):
        inverse = torch.linalg.inv(hessian[i:, i:])
        if i % 4 == 0:
            pivots = [torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(i, i + 4)]
            cost = current[:, i : i + 4].square() / torch.stack(pivots)
            assert torch.equal(keep[:, i : i + 4], NM(2, 4).select(cost))
        gone = torch.where(keep[:, i], 0.0, current[:, i])
        current[:, i:] -= torch.outer(gone / inverse[0, 0], inverse[0])


@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 4), Block(2, 3), Block(1, 9)], ids=str)
def test_the_count_is_exact_over_all_slabs(pattern, sparsity):
    torch.manual_seed(0)
    weight, inputs = torch.randn(10, 41), correlated(64, 41, dtype=torch.float32)
    keep = SparseGPT(block_size=8).solve(problem(weight, inputs, pattern, sparsity)).keep
    reference = pattern.select(weight, sparsity)
    assert int(keep.sum()) == int(reference.sum())
    left = pattern.remainder((10, 41))
    assert keep[10 - left.rows :].all()
    assert keep[:, 41 - left.columns :].all()


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS[:4], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_between_least_squares_and_wanda(pattern, sparsity, seed):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(32, 64, dtype=torch.float64), correlated(256, 64, seed)
    hessian = damped(inputs)
    found = SparseGPT().solve(problem(weight, inputs, pattern, sparsity))
    own = error(weight, found.weight, hessian)
    best = error(weight, least_squares(weight, inputs, found.keep), hessian)
    assert best <= own * (1 + 1e-9)
    for criterion in (Wanda(), Magnitude()):
        scores = criterion.score(weight, collect(inputs))
        keep = pattern.select(scores, sparsity, by_row=criterion.by_row)
        assert own < error(weight, weight * keep, hessian)


def test_the_sum_of_squared_errors_is_the_output_error():
    torch.manual_seed(0)
    weight, inputs = torch.randn(8, 16, dtype=torch.float64), correlated(64, 16)
    found = SparseGPT().solve(problem(weight, inputs))
    hessian, current, total = damped(inputs), weight.clone(), 0.0
    for i in range(16):
        inverse = torch.linalg.inv(hessian[i:, i:])
        gone = torch.where(found.keep[:, i], 0.0, current[:, i])
        total += float((gone.square() / inverse[0, 0]).sum())
        current[:, i:] -= torch.outer(gone / inverse[0, 0], inverse[0])
    assert total == pytest.approx(error(weight, found.weight, hessian))


def test_uncorrelated_inputs_leave_kept_weights_alone():
    torch.manual_seed(0)
    weight, inputs = torch.randn(4, 8, dtype=torch.float64), 3 * torch.eye(8, dtype=torch.float64)
    found = SparseGPT().solve(problem(weight, inputs))
    assert torch.equal(found.keep, Unstructured().select(weight.abs(), 0.5))
    torch.testing.assert_close(found.weight, weight * found.keep)


def test_groups_of_a_convolution_are_solved_apart():
    torch.manual_seed(0)
    weight, inputs = torch.randn(8, 9, dtype=torch.float64), correlated(64, 18)
    found = SparseGPT().solve(problem(weight.reshape(8, 1, 3, 3), inputs, groups=2))
    keep, solved = found.keep.reshape(8, 9), found.weight.reshape(8, 9)
    assert found.weight.shape == (8, 1, 3, 3)
    assert int(keep.sum()) == 36
    for rows, columns in ((slice(0, 4), slice(0, 9)), (slice(4, 8), slice(9, 18))):
        torch.testing.assert_close(solved[rows], naive(weight[rows], inputs[:, columns], keep[rows]))


def test_the_factor():
    """U^T U is the inverse, and U_ii^2 the first pivot of the inverse of what is left."""
    hessian = damped(correlated(64, 10), 0.0)
    factor = inverse_factor(hessian[None], 0.05, "layer")[0]
    full = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(full))
    assert torch.equal(factor, factor.triu())
    for i in range(10):
        assert float(factor[i, i] ** 2) == pytest.approx(float(torch.linalg.inv(full[i:, i:])[0, 0]))


def test_dead_inputs_go_first_and_stay_finite():
    torch.manual_seed(0)
    weight, inputs = torch.randn(6, 12), correlated(64, 12, dtype=torch.float32)
    inputs[:, [2, 5, 7]] = 0
    found = SparseGPT().solve(problem(weight, inputs, sparsity=0.5))
    assert not found.keep[:, [2, 5, 7]].any()
    assert not found.weight[:, [2, 5, 7]].any()
    assert int(found.keep.sum()) == 36
    alive = [i for i in range(12) if i not in (2, 5, 7)]
    expected = naive(weight.double()[:, alive], inputs.double()[:, alive], found.keep[:, alive])
    torch.testing.assert_close(found.weight[:, alive].double(), expected, rtol=1e-4, atol=1e-4)


def test_all_inputs_dead():
    found = SparseGPT().solve(problem(torch.ones(2, 4), torch.zeros(3, 4)))
    assert not found.weight.any()
    assert int(found.keep.sum()) == 4


def test_a_factor_that_fails_is_tried_again_and_says_so():
    inputs = torch.ones(4, 64)  # rank one, and no damping
    with pytest.warns(SparsekitWarning, match=r"layer\.weight: .* continued in float64 with 0\.0001"):
        found = SparseGPT(damping=0.0).solve(problem(torch.randn(2, 64), inputs))
    assert found.weight.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseGPT().solve(problem(torch.randn(2, 64), inputs))


def test_an_indefinite_matrix_is_refused():
    with pytest.raises(PruningError, match=r"fc\.weight: expected positive definite"):
        inverse_factor(torch.tensor([[[1.0, -9.0], [-9.0, 1.0]]]), 0.01, "fc.weight")


def test_nothing_to_remove_changes_nothing():
    weight = torch.randn(4, 8)
    found = SparseGPT().solve(problem(weight, torch.zeros(2, 8), sparsity=0.0))
    assert torch.equal(found.weight, weight)
    assert found.keep.all()


def test_the_problem_is_not_written_into():
    weight, inputs = torch.randn(4, 8), correlated(16, 8, dtype=torch.float32)
    given = problem(weight.clone(), inputs)
    gram = given.stats[Gram].sum.clone()
    SparseGPT().solve(given)
    assert torch.equal(given.weight, weight)
    assert torch.equal(given.stats[Gram].sum, gram)


@pytest.mark.parametrize("options", [{"damping": -0.1}, {"block_size": 0}])
def test_impossible_options(options):
    with pytest.raises(PruningError, match="expected damping >= 0 and block_size >= 1"):
        SparseGPT(**options)
