import pytest
import torch

import sparsekit as sk
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import DSnoT, Magnitude, Wanda
from tests.calibrated import correlated, layer_problem

PATTERNS = [(Unstructured(), 0.6), (NM(2, 4), 0.5), (NM(1, 4), 0.75), (Block(1, 2), 0.5)]


def problem(pattern=None, sparsity=0.6, seed=0):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(16, 24, dtype=torch.float64), correlated(64, 24, seed) + 0.5
    return weight, inputs, layer_problem(weight, inputs, pattern or Unstructured(), sparsity)


def missing(weight, inputs, keep):
    """What each row's mean output lacks."""
    return (inputs.mean(dim=0) * weight * ~keep).sum(dim=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS, ids=str)
def test_swaps_keep_counts_and_values_and_bring_the_mean_closer(pattern, sparsity, seed):
    weight, inputs, given = problem(pattern, sparsity, seed)
    found = DSnoT().solve(given)
    start = pattern.select(Wanda().score(weight, given.stats), sparsity, by_row=True)
    assert pattern.admits(found.keep)
    assert torch.equal(found.keep.sum(dim=1), start.sum(dim=1))
    if pattern.fixes_sparsity:
        assert torch.equal(found.keep.reshape(-1, 4).sum(dim=1), start.reshape(-1, 4).sum(dim=1))
    assert torch.equal(found.weight, weight * found.keep)  # survivors unchanged, what came back has its dense value
    before, after = missing(weight, inputs, start), missing(weight, inputs, found.keep)
    assert not torch.equal(found.keep, start)
    assert (before * after >= -1e-12).all()
    assert (after.abs() <= before.abs() + 1e-12).all()
    assert after.abs().sum() < 0.9 * before.abs().sum()


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS[:3], ids=str)
def test_the_error_kept_in_the_books_is_a_fresh_sum(pattern, sparsity, guard):
    weight, inputs, given = problem(pattern, sparsity)
    swaps = DSnoT().start(given)
    for _ in range(12):
        before = swaps.error.clone()
        if not swaps.advance(0.0, guard):
            break
        torch.testing.assert_close(swaps.error, missing(weight, inputs, swaps.keep))
        assert not guard or (swaps.error * before >= 0).all()


def test_one_swap_equals_the_definition():
    weight, inputs, given = problem()
    swaps = DSnoT().start(given)
    keep = swaps.keep.clone()
    scores = Wanda().score(weight, given.stats)
    swaps.advance(0.0, guard=False)
    mean, variance = inputs.mean(dim=0), inputs.var(dim=0, correction=0)
    for row in range(16):
        moved = weight[row] * mean
        sign = moved[~keep[row]].sum().sign()
        lost = [j for j in range(24) if not keep[row, j] and moved[j] * sign > 0]
        kept = [j for j in range(24) if keep[row, j] and moved[j] * sign < 0]
        comes = max(lost, key=lambda j: float(moved[j].abs() / variance[j]))
        goes = min(kept, key=lambda j: float(scores[row, j]))
        changed = (swaps.keep[row] != keep[row]).nonzero().flatten().tolist()
        assert changed == sorted([comes, goes])
        assert swaps.keep[row, comes]


def test_starts_from_any_criterion_and_may_do_nothing():
    weight, _, given = problem()
    found = DSnoT(Magnitude(), cycles=0).solve(given)
    assert torch.equal(found.keep, Unstructured().select(weight.abs(), 0.6))
    assert not DSnoT(Magnitude()).by_row
    assert DSnoT().by_row


def test_patterns_whose_groups_hang_together_are_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(sk.PruningError, match=r"0\.weight: DSnoT.* do not choose each for itself"):
        sk.prune(model, DSnoT(), sk.patterns.KernelPattern(4, 2), batches=[torch.randn(2, 3, 6, 6)])


@pytest.mark.parametrize("options", [{"tolerance": -1.0}, {"cycles": -1}, {"criterion": "wanda"}])
def test_impossible_options(options):
    with pytest.raises(sk.PruningError, match="DSnoT: expected"):
        DSnoT(**options)
