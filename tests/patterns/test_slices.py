"""Filters, channels and heads against loops."""

import pytest
import torch

from sparsekit.errors import PatternError
from sparsekit.patterns import Channel, Filter, Head


def expected(scores, gone):
    """Remove the runs of least total score; ``gone`` lists (index tuple of the run, ...) to sum over."""
    totals = [float(scores[place].sum()) for place in gone]
    order = sorted(range(len(gone)), key=lambda i: (totals[i], -i))
    keep = torch.ones_like(scores, dtype=torch.bool)
    for i in order[: len(gone) // 2]:
        keep[gone[i]] = False
    return keep


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 3, 3), (6, 1, 3, 3), (1, 5)], ids=str)
def test_runs_equal_a_loop(shape):
    torch.manual_seed(0)
    scores = torch.randn(shape)
    out, channels = shape[:2]
    everything = slice(None)
    cases = {
        Filter(): [(i,) for i in range(out)],
        Channel(): [(everything, j) for j in range(channels)],
        Head(2): [(slice(2 * i, 2 * i + 2),) for i in range(out // 2)],
        Head(3, axis=1): [(everything, slice(3 * j, 3 * j + 3)) for j in range(channels // 3)],
    }
    for pattern, runs in cases.items():
        assert torch.equal(pattern.select(scores, 0.5), expected(scores, runs)), str(pattern)


def test_heads_of_the_projections_belong_together():
    """The head that goes from the rows of a value projection is the head of as many columns of the next."""
    torch.manual_seed(0)
    strength = torch.tensor([3.0, 1.0, 2.0, 0.5]).repeat_interleave(8)
    value, output = torch.rand(32, 32) * strength[:, None], torch.rand(32, 32) * strength
    rows, columns = Head(8).select(value, 0.5), Head(8, axis=1).select(output, 0.5)
    assert torch.equal(rows, columns.T)
    assert rows[:, 0].nonzero().flatten().tolist() == [*range(8), *range(16, 24)]


def test_what_fills_no_run_stays():
    scores = -torch.ones(10, 7)
    left = Head(4).remainder((10, 7))
    assert (left.rows, left.columns) == (2, 0)
    assert Head(4).select(scores, 0.5).sum(dim=1).tolist() == [7] * 4 + [0] * 4 + [7] * 2
    left = Head(4, axis=1).remainder((10, 7, 3, 3))
    assert (left.rows, left.columns) == (0, 27)
    assert Head(4, axis=1).choose(scores, 1).sum(dim=0).tolist() == [0] * 4 + [10] * 3


def test_admits():
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[1] = False
    assert Filter().admits(keep)
    assert not Channel().admits(keep)
    assert not Head(2).admits(keep)
    keep[0] = False
    assert Head(2).admits(keep)
    assert Head(3).admits(torch.zeros(4, 6, dtype=torch.bool))
    keep[3, 2] = False
    assert not Filter().admits(keep)


@pytest.mark.parametrize(("dim", "axis"), [(0, 0), (-1, 0), (4, 2), (4, -1), (2.0, 0)])
def test_impossible_heads(dim, axis):
    with pytest.raises(PatternError, match=f"got {dim} and {axis}"):
        Head(dim, axis)
