"""Patterns along the input channels of convolutions, against loops over taps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import PatternError
from sparsekit.mask import Mask
from sparsekit.patterns import (
    NM,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelSlice,
    OnePerKernel,
    PerTap,
    TransposableNM,
    Unstructured,
)
from sparsekit.patterns.base import removed

MATRIX = [NM(2, 4), NM(1, 3), Block(2, 3), Block(1, 4), VNM(2, 2, 5), TransposableNM(1, 2), Channel(), Unstructured()]
FIXED = [pattern for pattern in MATRIX if pattern.fixes_sparsity]
shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
seeds = st.integers(0, 99)


def random_scores(shape, seed):
    """Few distinct values, so that ties are the rule."""
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


def taps_of(keep):
    """The matrix of each tap."""
    return [keep[:, :, row, column] for row in range(keep.shape[2]) for column in range(keep.shape[3])]


@given(st.sampled_from(FIXED), shapes, seeds)
@settings(deadline=None, max_examples=80)
def test_per_tap_a_fixed_pattern_chooses_at_each_tap_by_itself(pattern, shape, seed):
    scores = random_scores(shape, seed)
    keep = PerTap(pattern).select(scores)
    for own, kept in zip(taps_of(scores), taps_of(keep)):
        assert torch.equal(kept, pattern.select(own))


@given(st.sampled_from([p for p in MATRIX if not p.fixes_sparsity]), shapes, seeds, st.sampled_from([0.2, 0.5, 0.8]))
@settings(deadline=None, max_examples=80)
def test_per_tap_the_units_of_all_taps_share_a_budget(pattern, shape, seed, sparsity):
    scores = random_scores(shape, seed)
    keep = PerTap(pattern).select(scores, sparsity)
    sums = torch.stack([pattern.pool(own).double() for own in taps_of(scores)])
    kept = torch.stack([pattern.pool(own.double()) for own in taps_of(keep)]) > 0
    for own, stays in zip(taps_of(keep), kept):
        assert torch.equal(own, pattern.spread(stays, shape[:2]))
    assert int((~kept).sum()) == removed(sparsity, sums.numel())
    if kept.any() and not kept.all():
        assert sums[kept].min() >= sums[~kept].max()


@given(st.sampled_from(MATRIX), shapes, seeds)
@settings(deadline=None, max_examples=80)
def test_all_taps_is_the_choice_of_sums(pattern, shape, seed):
    scores, sparsity = random_scores(shape, seed), None if pattern.fixes_sparsity else 0.5
    keep = AllTaps(pattern).select(scores, sparsity)
    wanted = pattern.select(sum(own.double() for own in taps_of(scores)), sparsity)
    assert all(torch.equal(own, wanted) for own in taps_of(keep))


@given(shapes, seeds, st.sampled_from([0.0, 0.3, 0.9]), st.booleans())
@settings(deadline=None)
def test_all_taps_of_single_weights_are_kernel_slices(shape, seed, sparsity, by_row):
    scores = random_scores(shape, seed)
    keep = AllTaps(Unstructured()).select(scores, sparsity, by_row=by_row)
    assert torch.equal(keep, KernelSlice().select(scores, sparsity, by_row=by_row))


@pytest.mark.parametrize("pattern", MATRIX, ids=str)
def test_a_kernel_of_one_tap_is_a_matrix(pattern):
    scores, sparsity = random_scores((6, 11), 3), None if pattern.fixes_sparsity else 0.5
    wanted = pattern.select(scores, sparsity)
    for over in (PerTap, AllTaps):
        assert torch.equal(over(pattern).select(scores[:, :, None, None], sparsity)[:, :, 0, 0], wanted)
        assert over(pattern).remainder((6, 11, 1, 1)) == pattern.remainder((6, 11))


def test_sums_over_taps_do_not_round():
    """In float32 the two kernels would tie, and the lower index would stay."""
    scores = torch.zeros(1, 2, 1, 3)
    scores[0, 0, 0] = torch.tensor([2.0**24, 0.0, 0.0])
    scores[0, 1, 0] = torch.tensor([2.0**24, 1.0, 0.0])
    assert AllTaps(NM(1, 2)).select(scores)[0, :, 0, 0].tolist() == [False, True]


@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        (PerTap(NM(1, 2)), (0, 3, 0, 1)),
        (PerTap(Block(2, 2)), (0, 3, 0, 1)),
        (AllTaps(NM(1, 2)), (0, 3, 0, 1)),
        (AllTaps(Block(2, 2)), (1, 2, 2, 2)),
        (AllTaps(Unstructured()), (1, 2, 2, 2)),
    ],
    ids=str,
)
def test_one_more_or_one_less_breaks_it(pattern, position):
    keep = pattern.select(torch.ones(4, 4, 3, 3), None if pattern.fixes_sparsity else 0.5)
    assert pattern.admits(keep)
    assert pattern.admits(torch.zeros_like(keep))
    keep[position] = ~keep[position]
    assert not pattern.admits(keep)


@pytest.mark.parametrize("inner", [NM(1, 2), Block(2, 2)], ids=str)
def test_whole_kernels_break_the_pattern_of_channels(inner):
    pattern = AllTaps(inner)
    keep = pattern.select(torch.ones(4, 4, 3, 3), None if pattern.fixes_sparsity else 0.5)
    keep[0, :2] = torch.tensor([True, pattern.fixes_sparsity])[:, None, None]
    assert KernelSlice().admits(keep)
    assert not pattern.admits(keep)


def test_n_m_in_every_row_of_the_matrix_is_another_pattern():
    """Neighbours in the matrix are taps of one kernel; neighbours of PerTap are channels."""
    scores = torch.rand(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    assert not PerTap(NM(2, 4)).admits(NM(2, 4).select(scores))
    assert not NM(2, 4).admits(PerTap(NM(2, 4)).select(scores))


@pytest.mark.parametrize("over", [PerTap, AllTaps])
@pytest.mark.parametrize("pattern", MATRIX, ids=str)
def test_a_shuffle_keeps_as_many_and_is_legal(over, pattern):
    made = over(pattern)
    keep = made.select(random_scores((6, 11, 2, 3), 1), None if pattern.fixes_sparsity else 0.6)
    shuffled = made.shuffle(keep, torch.Generator().manual_seed(0))
    assert made.admits(shuffled)
    assert shuffled.sum() == keep.sum()
    assert not torch.equal(shuffled, keep)


def test_a_shuffle_leaves_what_is_left_over():
    keep = torch.ones(2, 5, 2, 2, dtype=torch.bool)
    keep[0, :2, 0], keep[1, 4, 1, 1] = False, False
    for _ in range(5):
        shuffled = PerTap(NM(4, 4)).shuffle(keep, torch.Generator().manual_seed(0))
        assert torch.equal(shuffled[:, 4], keep[:, 4])


def test_remainders_are_those_of_channels():
    assert str(PerTap(NM(2, 4)).remainder((8, 10, 3, 3))) == "18 columns kept dense"
    assert str(AllTaps(Block(4, 4)).remainder((10, 7, 3, 3))) == "2 rows and 27 columns kept dense"
    keep = Mask(PerTap(Block(4, 4)).select(torch.rand(10, 7, 3, 3), 0.9), PerTap(Block(4, 4))).keep
    assert keep[8:].all()
    assert keep[:, 4:].all()


def test_written_as_the_user_does():
    assert str(PerTap(NM(2, 4))) == "PerTap(NM(2, 4))"
    assert str(AllTaps(Filter())) == "AllTaps(Filter())"


@pytest.mark.parametrize("inner", [KernelSlice(), OnePerKernel(), PerTap(NM(2, 4)), NM, "2:4"], ids=str)
@pytest.mark.parametrize("over", [PerTap, AllTaps])
def test_patterns_of_kernels_are_not_of_matrices(over, inner):
    with pytest.raises(PatternError, match=f"^{over.__name__}: expected a pattern of a matrix such as NM.*, got "):
        over(inner)


@pytest.mark.parametrize("inner", [Filter(), Head(2)], ids=str)
def test_per_tap_has_no_whole_rows(inner):
    with pytest.raises(PatternError, match="expected a pattern that can be cut between columns, got"):
        PerTap(inner)


@pytest.mark.parametrize(
    "pattern", [PerTap(Block(2, 3)), AllTaps(Block(2, 3)), AllTaps(NM(1, 2)), KernelSlice()], ids=str
)
@given(shape=shapes, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_what_is_kept_is_a_union_of_its_blocks(pattern, shape, seed):
    keep = pattern.select(random_scores(shape, seed), None if pattern.fixes_sparsity else 0.5).flatten(1)
    rows, columns = pattern.block_sides(shape)
    for top in range(0, keep.shape[0], rows):
        for left in range(0, keep.shape[1], columns):
            block = keep[top : top + rows, left : left + columns]
            assert block.all() or not block.any()
