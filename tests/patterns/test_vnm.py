"""V:N:M against enumeration."""

from itertools import combinations

import pytest
import torch

from sparsekit.errors import PatternError
from sparsekit.patterns import NM, VNM


def retained_by(block, columns, n):
    """What the rows of a block retain of these columns."""
    return float(block[:, list(columns)].topk(n, dim=1).values.sum())


def blocks_of(matrix, v, m):
    return [
        matrix[i : i + v, j : j + m]
        for i in range(0, matrix.shape[0] - v + 1, v)
        for j in range(0, matrix.shape[1] - m + 1, m)
    ]


@pytest.mark.parametrize(
    ("v", "n", "m"), [(2, 2, 8), (4, 2, 6), (3, 1, 7), (2, 3, 6), (4, 4, 8), (1, 2, 5), (16, 2, 8)]
)
@pytest.mark.parametrize("signed", [False, True])
def test_the_columns_are_the_best_of_all(v, n, m, signed):
    torch.manual_seed(0)
    scores = torch.randn(2 * v, 3 * m, dtype=torch.float64)
    scores = scores if signed else scores.abs()
    keep = VNM(v, n, m).select(scores)
    for block, kept in zip(blocks_of(scores, v, m), blocks_of(keep, v, m)):
        best = max(combinations(range(m), 4), key=lambda columns: retained_by(block, columns, n))
        assert set(kept.any(dim=0).nonzero().flatten().tolist()) <= set(best)
        assert (kept.sum(dim=1) == n).all()
        assert float((block * kept).sum()) == pytest.approx(retained_by(block, best, n))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["random", "ties"])
def test_m_of_4_is_nm(n, kind):
    torch.manual_seed(0)
    scores = torch.rand(12, 20) if kind == "random" else torch.randint(0, 2, (12, 20)).float()
    assert torch.equal(VNM(6, n, 4).select(scores), NM(n, 4).select(scores))


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("m", [8, 20])
def test_v_of_1_is_nm(n, m):
    """Of one row any n columns lie within some four."""
    torch.manual_seed(0)
    scores = torch.rand(12, 40)
    assert torch.equal(VNM(1, n, m).select(scores), NM(n, m).select(scores))


def test_wide_blocks_keep_columns_that_no_exchange_improves():
    torch.manual_seed(0)
    v, n, m = 4, 2, 20
    scores = torch.rand(2 * v, 2 * m)
    keep = VNM(v, n, m).select(scores)
    assert VNM(v, n, m).admits(keep)
    for block, kept in zip(blocks_of(scores, v, m), blocks_of(keep, v, m)):
        found = float((block * kept).sum())
        best = max(retained_by(block, columns, n) for columns in combinations(range(m), 4))
        assert found <= best + 1e-5
        assert found >= 0.95 * best
        used = kept.any(dim=0).nonzero().flatten().tolist()
        for column in used:
            for other in range(m):
                columns = {*used, other} - {column}
                if len(columns) == 4:
                    assert retained_by(block, columns, n) <= found + 1e-5


def test_wide_and_narrow_agree(monkeypatch):
    """Where four columns stand out, going one by one finds what trying all finds."""
    torch.manual_seed(0)
    scores = 0.1 * torch.rand(8, 32)
    scores[:, [1, 3, 8, 15, 16, 20, 21, 30]] += 1 + torch.rand(8, 8)
    expected = VNM(4, 2, 16).select(scores)
    monkeypatch.setattr("sparsekit.patterns.vnm.EXHAUSTIVE", 4)
    assert torch.equal(VNM(4, 2, 16).select(scores), expected)


def test_ties_go_to_the_lower_index():
    for pattern in (VNM(2, 2, 8), VNM(2, 2, 24)):
        keep = pattern.select(torch.zeros(2, pattern.m))
        assert keep[:, :2].all()
        assert int(keep.sum()) == 4


def test_admits_counts_columns_and_rows():
    keep = torch.zeros(2, 8, dtype=torch.bool)
    keep[0, [0, 3]] = keep[1, [5, 7]] = True
    assert VNM(2, 2, 8).admits(keep)
    assert not VNM(2, 1, 8).admits(keep)
    keep[1, 5], keep[1, 6] = False, True
    assert VNM(2, 2, 8).admits(keep)
    keep[1, 7], keep[1, 1] = False, True
    keep[0, 4] = True
    assert not VNM(2, 3, 8).admits(keep)  # five columns
    assert VNM(1, 3, 8).admits(keep)
    assert VNM(4, 2, 8).admits(torch.ones(3, 9, dtype=torch.bool))  # no whole block


def test_remainders_stay():
    pattern, scores = VNM(4, 2, 8), -torch.ones(10, 19)
    left = pattern.remainder((10, 19))
    assert (left.rows, left.columns) == (2, 3)
    keep = pattern.select(scores)
    assert keep[8:].all()
    assert keep[:, 16:].all()
    assert int(keep.sum()) == 190 - 8 * 2 * 6


@pytest.mark.parametrize("arguments", [(0, 2, 8), (4, 5, 8), (4, 0, 8), (4, 2, 3), (4.0, 2, 8)])
def test_impossible_sizes(arguments):
    v, n, m = arguments
    with pytest.raises(PatternError, match=f"got v={v}, n={n}, m={m}"):
        VNM(*arguments)
