"""Transposable N:M against enumeration and against scipy's solver of assignment problems."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sparsekit.errors import PatternError
from sparsekit.patterns import NM, TransposableNM
from sparsekit.patterns.assignment import greedily, improved
from sparsekit.patterns.transposable_nm import every_mask

SIZES = [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4), (1, 5), (2, 5), (3, 6), (2, 8), (4, 8), (5, 9)]


def optimum(block, n):
    """The best retained score by linear programming: the vertices of this polytope are the masks."""
    m = len(block)
    rows, columns = np.kron(np.eye(m), np.ones(m)), np.kron(np.ones(m), np.eye(m))
    found = linprog(-block.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=np.full(2 * m, n), bounds=(0, 1))
    return -found.fun


def retained(scores, keep, m):
    """What each block retains."""
    high, wide = scores.shape[0] // m, scores.shape[1] // m
    return (scores * keep).reshape(high, m, wide, m).transpose(1, 2).flatten(2).sum(dim=2).double()


def test_there_are_90_masks_of_2_4():
    legal = [
        bits
        for bits in product([0, 1], repeat=16)
        if all(sum(bits[4 * i : 4 * i + 4]) == 2 for i in range(4)) and all(sum(bits[j::4]) == 2 for j in range(4))
    ]
    assert len(legal) == 90
    assert [tuple(mask.flatten().int().tolist()) for mask in every_mask(2, 4)] == legal[::-1]
    assert len(every_mask(1, 4)) == math.factorial(4)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_exact_is_the_optimum_and_greedy_is_at_least_half(n, m):
    torch.manual_seed(0)
    scores = torch.randn(4 * m, 3 * m, dtype=torch.float64).square()
    exact = retained(scores, TransposableNM(n, m).select(scores), m)
    greedy = retained(scores, TransposableNM(n, m, "greedy").select(scores), m)
    blocks = scores.reshape(4, m, 3, m).transpose(1, 2)
    best = torch.tensor([[optimum(block, n) for block in row] for row in blocks], dtype=torch.float64)
    torch.testing.assert_close(exact, best, rtol=1e-6, atol=1e-8)
    assert (greedy <= exact * (1 + 1e-12)).all()
    assert (greedy >= exact / 2).all()


def test_brute_force_and_cycles_agree():
    torch.manual_seed(0)
    scores = torch.rand(80, 80, dtype=torch.float64)
    blocks = scores.reshape(20, 4, 20, 4).transpose(1, 2).reshape(400, 4, 4)
    best = torch.stack([(blocks * mask).sum(dim=(1, 2)) for mask in every_mask(2, 4)]).amax(dim=0)
    start, _ = greedily(blocks, 2)
    cycles = improved(blocks, start)
    assert not torch.equal(start, cycles)
    torch.testing.assert_close((blocks * cycles).sum(dim=(1, 2)), best)
    torch.testing.assert_close(retained(scores, TransposableNM(2, 4).select(scores), 4).flatten(), best)


@given(st.integers(1, 6), st.integers(0, 999), st.sampled_from(["ties", "signs", "spread"]), st.data())
@settings(deadline=None, max_examples=20)
def test_any_scores(m, seed, kind, data):
    """Scores with many ties, of both signs, and over many orders of magnitude."""
    n = data.draw(st.integers(1, m))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (2 * m, m), generator=generator).double()
    if kind == "signs":
        scores -= 1
    if kind == "spread":
        scores = 10.0 ** (6 * torch.rand(2 * m, m, generator=generator, dtype=torch.float64) - 3)
    for method in ("exact", "greedy"):
        keep = TransposableNM(n, m, method).select(scores)
        blocks = keep.reshape(2, m, m)
        assert (blocks.sum(dim=1) == n).all()
        assert (blocks.sum(dim=2) == n).all()
        found = retained(scores, keep, m).flatten().tolist()
        best = [optimum(block, n) for block in scores.reshape(2, m, m)]
        if method == "exact":
            assert found == pytest.approx(best, rel=1e-6, abs=1e-8)
        elif kind != "signs":
            assert all(value >= limit / 2 - 1e-8 for value, limit in zip(found, best))


def test_the_transpose_is_legal_too():
    torch.manual_seed(0)
    scores = torch.rand(16, 24)
    keep = TransposableNM(2, 4).select(scores)
    for seen in (keep, keep.T):
        assert NM(2, 4).admits(seen)
        assert TransposableNM(2, 4).admits(seen)
    assert torch.equal(TransposableNM(2, 4).select(scores.T).T, keep)
    assert not TransposableNM(2, 4).admits(NM(2, 4).select(scores))


def test_filling_up_that_loses_is_solved_instead():
    """Greedy leaves a row and a column open; the best filling up costs more than it brings, and is not the optimum."""
    scores = torch.tensor([[5.0, 2, 0, 4], [0, 1, 4, 5], [0, 5, 1, 0], [5, 1, 4, 4]])
    filled, lost = greedily(scores.double()[None], 2)
    assert bool(lost)
    assert float((scores * filled).sum()) == 30.0
    assert float((scores * TransposableNM(2, 4, "greedy").select(scores)).sum()) == 31.0
    assert float((scores * TransposableNM(2, 4).select(scores)).sum()) == 31.0


@pytest.mark.parametrize("pattern", [TransposableNM(2, 4), TransposableNM(2, 4, "greedy")], ids=str)
def test_ties_go_to_the_lower_index(pattern):
    corner = [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    assert pattern.select(torch.zeros(4, 4)).tolist() == corner


def test_remainders_stay():
    pattern, scores = TransposableNM(2, 4), -torch.ones(10, 7)
    left = pattern.remainder((10, 7))
    assert (left.rows, left.columns) == (2, 3)
    keep = pattern.select(scores)
    assert keep[8:].all()
    assert keep[:, 4:].all()
    assert int(keep.sum()) == 70 - 16
    assert pattern.select(torch.ones(3, 9)).all()  # no whole block


def test_admits():
    fewer = torch.zeros(4, 4, dtype=torch.bool)
    fewer[0, 0] = True
    assert TransposableNM(2, 4).admits(fewer)
    fewer[:3, 0] = True
    assert not TransposableNM(2, 4).admits(fewer)
    assert TransposableNM(2, 4).admits(torch.ones(3, 3, dtype=torch.bool))


@pytest.mark.parametrize("arguments", [(5, 4), (0, 4), (2.0, 4)])
def test_impossible_sizes(arguments):
    with pytest.raises(PatternError, match=f"got n={arguments[0]}, m=4"):
        TransposableNM(*arguments)


def test_impossible_methods_and_scores():
    with pytest.raises(PatternError, match="'exact' or 'greedy', got 'best'"):
        TransposableNM(2, 4, "best")
    with pytest.raises(PatternError, match="expected finite scores"):
        TransposableNM(2, 4).select(torch.full((4, 4), torch.inf))
