import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import MaskError
from sparsekit.mask import READABLE, Mask, read_mask
from sparsekit.patterns import NM, Block, Channel, Filter, KernelSlice, Unstructured


def test_counts():
    mask = Mask(torch.tensor([[True, False], [False, False]]))
    assert (mask.nnz, mask.sparsity, tuple(mask.shape)) == (1, 0.75, (2, 2))
    assert Mask(torch.ones(0, 4, dtype=torch.bool)).sparsity == 0.0
    assert repr(mask) == "Mask(Unstructured(), shape=(2, 2), sparsity=0.7500)"


def test_remainder_is_reported():
    mask = Mask(torch.ones(5, 6, dtype=torch.bool), Block(4, 4))
    assert (mask.remainder.rows, mask.remainder.columns) == (1, 2)
    assert "1 row and 2 columns kept dense" in repr(mask)


@pytest.mark.parametrize(
    ("keep", "pattern", "match"),
    [
        (torch.ones(2, 2), Unstructured(), "expected a bool tensor"),
        (torch.tensor(True), Unstructured(), "at least one dimension"),
        (torch.ones(1, 4, dtype=torch.bool), NM(2, 4), "NM"),
        (torch.eye(2, dtype=torch.bool), Block(2, 2), "Block"),
    ],
)
def test_impossible_masks(keep, pattern, match):
    with pytest.raises(MaskError, match=match):
        Mask(keep, pattern)


def test_check_names_the_parameter():
    mask = Mask(torch.ones(2, 2, dtype=torch.bool))
    mask.check(torch.ones(2, 2), "fc.weight")
    with pytest.raises(MaskError, match=r"fc\.weight: expected a mask of shape \(2, 3\), got \(2, 2\)"):
        mask.check(torch.ones(2, 3), "fc.weight")
    with pytest.raises(MaskError, match=r"fc\.weight: expected a mask on meta"):
        mask.check(torch.ones(2, 2, device="meta"), "fc.weight")


@pytest.mark.parametrize("pattern", READABLE, ids=str)
def test_read_back_what_was_made(pattern):
    torch.manual_seed(0)
    shape = (32, 16, 3, 3) if pattern.refuses((256, 256)) else (250, 256) if pattern == Channel() else (256, 256)
    weight = torch.randn(shape)
    keep = pattern.select(weight.abs(), None if pattern.fixes_sparsity else 0.75)
    mask = read_mask(weight * keep)
    assert torch.equal(mask.keep, keep)
    assert mask.pattern == pattern


def test_read_anything_else_as_unstructured():
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    assert read_mask(weight).pattern == Unstructured()
    assert read_mask(weight).nnz == weight.numel()
    assert read_mask(weight * (torch.rand(64, 64) > 0.7)).pattern == Unstructured()
    assert read_mask(torch.zeros(0, 8)).nnz == 0


def test_zeros_outside_whole_units_need_an_explanation():
    """Of 66 rows, 64 fill a block; 3 % of the zeros lie in the two rows that are left."""
    weight = torch.zeros(66, 64)
    weight[64, 0] = weight[65, 1] = 1
    assert read_mask(weight).pattern == Unstructured()
    weight[64:] = 1
    assert read_mask(weight).pattern == Block(64, 64)


def test_units_of_one_weight_explain_nothing():
    torch.manual_seed(0)
    for shape in ((64, 1), (1, 64), (8, 8, 1, 1)):
        weight = torch.randn(shape)
        weight[weight < 0.5] = 0
        assert read_mask(weight).pattern == Unstructured()
    assert read_mask(torch.zeros(66, 64)).pattern == Filter()


def test_a_mask_of_a_shape_that_its_pattern_refuses():
    with pytest.raises(MaskError, match=r"KernelSlice\(\) needs kernels.*\(4, 4\)"):
        Mask(torch.ones(4, 4, dtype=torch.bool), KernelSlice())


def test_both_zeros_are_removed_and_nan_is_kept():
    mask = read_mask(torch.tensor([[0.0, -0.0, torch.nan, 1.0]]))
    assert mask.keep.tolist() == [[False, False, True, True]]


def test_read_a_convolution():
    weight = torch.randn(32, 8, 3, 3)
    weight.view(32, -1)[:16, :48] = 0
    mask = read_mask(weight)
    assert mask.shape == weight.shape
    assert torch.equal(mask.keep, weight != 0)


def explained(pattern, keep):
    """Whether the units of ``pattern`` hold nearly all zeros, or as many as they make."""
    shape, zeros = tuple(keep.shape), int((~keep).sum())
    units = pattern.pool(keep.double())
    if pattern.fixes_sparsity:
        made = units.numel() * pattern.sparsity(None, shape)
        return 0.98 * made <= zeros <= 1.02 * made
    return units.numel() != keep.numel() and int((~pattern.spread(units > 0, shape)).sum()) >= 0.98 * zeros


@settings(max_examples=150, deadline=None)
@given(
    pattern=st.sampled_from((*READABLE, Unstructured(), Block(2, 2))),
    shape=st.one_of(
        st.tuples(st.integers(1, 200), st.integers(1, 200)),
        st.tuples(st.integers(1, 40), st.integers(1, 20), st.just(3), st.just(3)),
    ),
    sparsity=st.sampled_from([0.1, 0.5, 0.9]),
    flipped=st.sampled_from([0, 0, 0, 1, 30]),
    seed=st.integers(0, 2**16),
)
def test_reads_the_first_pattern_that_explains_the_zeros(pattern, shape, sparsity, flipped, seed):
    generator = torch.Generator().manual_seed(seed)
    if pattern.refuses(shape):
        return
    keep = pattern.select(torch.rand(shape, generator=generator), None if pattern.fixes_sparsity else sparsity)
    keep.view(-1)[torch.randint(keep.numel(), (flipped,), generator=generator)] ^= True
    weight = torch.where(keep, 1.0, 0.0)
    legal = (p for p in READABLE if not keep.all() and not p.refuses(shape))
    expected = next(
        (p for p in legal if explained(p, keep) and (not p.fixes_sparsity or p.admits(keep))), Unstructured()
    )
    found = read_mask(weight)
    assert found.pattern == expected
    assert bool((found.keep | ~keep).all())
    if expected.fixes_sparsity or expected == Unstructured():
        assert torch.equal(found.keep, keep)


def test_a_kept_weight_may_happen_to_be_zero():
    keep = Block(16, 16).select(torch.rand(128, 128, generator=torch.Generator().manual_seed(0)), 0.75)
    weight = torch.where(keep, 1.0, 0.0)
    weight[tuple(keep.nonzero()[7])] = 0.0
    found = read_mask(weight)
    assert found.pattern == Block(16, 16)
    assert torch.equal(found.keep, keep)
