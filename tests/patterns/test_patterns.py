import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import PatternError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.patterns.base import removed

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 9))
SPARSITIES = st.integers(0, 99).map(lambda percent: percent / 100)


@st.composite
def scores(draw):
    shape = draw(SHAPES)
    # Few distinct values, so that ties are the rule.
    values = draw(st.lists(st.integers(-2, 2), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def lowest(values, count):
    """Indices of the ``count`` lowest, the higher index first among equals."""
    return sorted(range(len(values)), key=lambda i: (values[i], -i))[:count]


def exact_floor(sparsity, count):
    return math.floor(Fraction(str(sparsity)) * count)


@given(scores(), SPARSITIES, st.booleans())
@settings(deadline=None)
def test_unstructured_equals_a_sort(matrix, sparsity, by_row):
    keep = Unstructured().select(matrix, sparsity, by_row=by_row)
    expected = torch.ones_like(matrix, dtype=torch.bool)
    lines = zip(matrix, expected) if by_row and matrix.shape[1] > 1 else [(matrix.reshape(-1), expected.view(-1))]
    for values, kept in lines:
        kept[lowest(values.tolist(), exact_floor(sparsity, len(values)))] = False
    assert torch.equal(keep, expected)


@given(scores(), st.integers(1, 4), st.integers(1, 4), SPARSITIES, st.booleans())
@settings(deadline=None)
def test_block_equals_a_sort_of_sums(matrix, rows, columns, sparsity, by_row):
    keep = Block(rows, columns).select(matrix, sparsity, by_row=by_row)
    high, wide = matrix.shape[0] // rows, matrix.shape[1] // columns
    cells = [[(i, j) for j in range(wide)] for i in range(high)]
    expected = torch.ones_like(matrix, dtype=torch.bool)
    for line in cells if by_row and wide > 1 else [[cell for row in cells for cell in row]]:
        sums = [float(matrix[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].sum()) for i, j in line]
        for index in lowest(sums, exact_floor(sparsity, len(line))):
            i, j = line[index]
            expected[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = False
    assert torch.equal(keep, expected)


@given(scores(), st.integers(1, 4), st.integers(0, 4))
@settings(deadline=None)
def test_nm_equals_a_sort_of_each_group(matrix, n, extra):
    m = n + extra
    keep = NM(n, m).select(matrix)
    expected = torch.ones_like(matrix, dtype=torch.bool)
    for i in range(matrix.shape[0]):
        for start in range(0, matrix.shape[1] - m + 1, m):
            for j in lowest(matrix[i, start : start + m].tolist(), m - n):
                expected[i, start + j] = False
    assert torch.equal(keep, expected)


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 3)], ids=str)
def test_a_weight_of_many_dimensions_is_its_matrix(pattern):
    values = torch.randn(6, 4, 3, 3)
    sparsity = None if pattern.fixes_sparsity else 0.5
    keep = pattern.select(values, sparsity)
    assert keep.shape == values.shape
    assert torch.equal(keep.flatten(1), pattern.select(values.flatten(1), sparsity))
    assert pattern.admits(keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_scores_of_any_dtype(dtype):
    values = torch.arange(16).reshape(2, 8).to(dtype)
    assert Unstructured().select(values, 0.5).tolist() == [[False] * 8, [True] * 8]
    assert NM(2, 4).select(values).tolist() == [[False, False, True, True] * 2] * 2


def test_scores_that_are_not_contiguous():
    values = torch.randn(8, 6).t()
    for pattern in (Unstructured(), Block(2, 2)):
        assert torch.equal(pattern.select(values, 0.5), pattern.select(values.contiguous(), 0.5))


def test_ties_go_to_the_lower_index():
    ones = torch.ones(2, 4)
    assert Unstructured().select(ones, 0.5).tolist() == [[True] * 4, [False] * 4]
    assert Unstructured().select(ones, 0.5, by_row=True).tolist() == [[True, True, False, False]] * 2
    assert NM(1, 4).select(ones).tolist() == [[True, False, False, False]] * 2
    assert Block(1, 2).select(ones, 0.25).tolist() == [[True] * 4, [True, True, False, False]]


@given(st.integers(0, 1000), st.integers(1, 10**7), st.data())
@settings(deadline=None)
def test_a_share_of_a_count_comes_back_exactly(percent_of_ten, count, data):
    gone = data.draw(st.integers(0, count))
    assert removed(gone / count, count) == gone
    assert removed(percent_of_ten / 1000, 1000) == percent_of_ten


def test_removed_takes_the_decimal_that_was_written():
    assert removed(0.29, 100) == 29  # 0.29 * 100 is 28.999...
    assert removed(0.57, 100) == 57
    assert removed(0.5, 3) == 1


@given(scores(), st.integers(0, 81))
@settings(deadline=None)
def test_choose_removes_a_count(matrix, gone):
    gone = min(gone, matrix.numel())
    assert int((~Unstructured().choose(matrix, gone)).sum()) == gone


def test_remainders_are_reported_and_kept():
    block, shape = Block(4, 4), (10, 7)
    left = block.remainder(shape)
    assert (left.rows, left.columns, str(left)) == (2, 3, "2 rows and 3 columns kept dense")
    keep = block.select(-torch.ones(shape), 0.5)
    assert keep[8:].all()
    assert keep[:, 4:].all()
    assert NM(2, 4).remainder((8, 3, 3, 3)).columns == 3
    assert not NM(2, 4).remainder((8, 16))
    assert str(Unstructured().remainder(shape)) == "nothing left over"


def test_admits():
    assert Unstructured().admits(torch.zeros(3, 3, dtype=torch.bool))
    assert NM(2, 4).admits(torch.tensor([[True, False, False, True], [False, False, False, True]]))
    assert not NM(2, 4).admits(torch.tensor([[True, True, False, True]]))
    assert NM(2, 4).admits(torch.tensor([[True, False, False, True, True]]))
    half = torch.tensor([[True, True], [True, False]])
    assert not Block(2, 2).admits(half)
    assert Block(1, 1).admits(half)
    assert Block(4, 4).admits(half)  # no whole block


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), "much", None])
def test_impossible_sparsity(sparsity):
    for pattern in (Unstructured(), Block(2, 2)):
        with pytest.raises(PatternError, match=r"expected .*\[0, 1\)"):
            pattern.select(torch.ones(4, 4), sparsity)


def test_nm_fixes_its_sparsity():
    assert NM(2, 4).select(torch.randn(4, 8), 0.5).sum() == 16
    assert NM(1, 3).select(torch.randn(4, 6), 2 / 3).sum() == 8
    with pytest.raises(PatternError, match=r"expected 0\.5 or None, got 0\.6"):
        NM(2, 4).select(torch.randn(4, 8), 0.6)


@pytest.mark.parametrize(("n", "m"), [(5, 4), (0, 4), (-1, 4), (1, 0)])
def test_impossible_nm(n, m):
    with pytest.raises(PatternError, match=f"got n={n}, m={m}"):
        NM(n, m)


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (4, 0), (-1, 1)])
def test_impossible_block(rows, columns):
    with pytest.raises(PatternError, match=f"got {rows} x {columns}"):
        Block(rows, columns)


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2)], ids=str)
def test_nan_scores_are_refused(pattern):
    values = torch.ones(4, 4)
    values[1, 2] = torch.nan
    with pytest.raises(PatternError, match="1 NaN"):
        pattern.select(values, None if pattern.fixes_sparsity else 0.5)


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2)], ids=str)
def test_cutting_at_multiples_of_the_width(pattern):
    """What a solver relies on: units of a part are the units of the whole."""
    assert pattern.grid((6, 12)) == tuple(pattern.pool(torch.ones(6, 12)).shape)
    cut = 2 * pattern.span((6, 12))
    parts = [pattern.grid((6, cut))[1], pattern.grid((6, 12 - cut))[1]]
    assert sum(parts) == pattern.grid((6, 12))[1]
