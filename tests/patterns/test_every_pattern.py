"""What every pattern has to keep, for weights of any shape."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsekit as sk
from sparsekit.errors import MaskError, PatternError
from sparsekit.mask import Mask
from sparsekit.patterns import (
    NM,
    PATTERNS,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.pruning import Global, Magnitude, SparseGPT, Wanda, prune
from tests.counts import kept_count, layout

COUNTS = st.integers(1, 5)
MATRIX = {
    Unstructured: st.just(Unstructured()),
    NM: COUNTS.flatmap(lambda m: st.integers(1, m).map(lambda n: NM(n, m))),
    Block: st.builds(Block, COUNTS, COUNTS),
    TransposableNM: st.integers(1, 6).flatmap(
        lambda m: st.builds(TransposableNM, st.integers(1, m), st.just(m), st.sampled_from(["exact", "greedy"]))
    ),
    VNM: st.builds(VNM, COUNTS, st.integers(1, 4), st.integers(4, 7)),
    Filter: st.just(Filter()),
    Channel: st.just(Channel()),
    Head: st.builds(Head, COUNTS, st.integers(0, 1)),
}
ANY = {
    **MATRIX,
    KernelSlice: st.just(KernelSlice()),
    KernelPattern: st.builds(KernelPattern, COUNTS, COUNTS),
    OnePerKernel: st.just(OnePerKernel()),
    StridedKernel: st.builds(StridedKernel, COUNTS, st.sampled_from(["channel", "layer"])),
    PerTap: st.one_of(*MATRIX.values()).filter(lambda p: p != Filter() and getattr(p, "axis", 1)).map(PerTap),
    AllTaps: st.one_of(*MATRIX.values()).map(AllTaps),
}
SPARSITIES = st.integers(0, 99).map(lambda percent: percent / 100)
SIDES = st.integers(0, 7)


@st.composite
def problems(draw, patterns):
    """A pattern, scores that it takes (few distinct values, so that ties are the rule), and a sparsity for it."""
    pattern = draw(patterns)
    convolution = draw(st.booleans()) or pattern.refuses((2, 2)) is not None
    shape = (draw(SIDES), draw(SIDES), *((draw(COUNTS), draw(COUNTS)) if convolution else ()))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scores = torch.randint(1, draw(st.integers(2, 30)), shape, generator=generator).float()
    return pattern, scores, None if pattern.fixes_sparsity else draw(SPARSITIES)


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
class TestAnyShape:
    @given(data=st.data(), by_row=st.booleans())
    @settings(deadline=None, max_examples=25)
    def test_exact_legal_idempotent_and_the_same_again(self, kind, data, by_row):
        pattern, scores, sparsity = data.draw(problems(ANY[kind]))
        before = scores.clone()
        keep = pattern.select(scores, sparsity, by_row=by_row)
        assert keep.shape == scores.shape
        assert keep.dtype == torch.bool
        assert keep.is_contiguous()  # no two weights share a bit
        assert pattern.admits(keep)
        assert int(keep.sum()) == kept_count(pattern, tuple(scores.shape), sparsity, by_row)
        assert torch.equal(scores, before)
        assert torch.equal(pattern.select(scores.clone(), sparsity, by_row=by_row), keep)
        assert torch.equal(pattern.select(scores * keep, sparsity, by_row=by_row), keep)
        assert Mask(keep, pattern).remainder == pattern.remainder(tuple(scores.shape))

    @given(data=st.data())
    @settings(deadline=None, max_examples=12)
    def test_signs_count(self, kind, data):
        """Scores are ordered, not their magnitudes: a shift of all of them changes nothing."""
        pattern, scores, sparsity = data.draw(problems(ANY[kind]))
        if getattr(getattr(pattern, "pattern", pattern), "method", "") == "greedy":
            return  # a greedy choice that may not be filled up depends on where zero is
        assert torch.equal(pattern.select(scores - 100, sparsity), pattern.select(scores, sparsity))

    @given(data=st.data())
    @settings(deadline=None, max_examples=12)
    def test_the_layout_of_units(self, kind, data):
        pattern, scores, _ = data.draw(problems(ANY[kind]))
        shape = tuple(scores.shape)
        units = pattern.pool(scores)
        assert pattern.grid(shape) == tuple(units.shape)
        if pattern.fixes_sparsity:
            return
        high, wide, per_unit = layout(pattern, shape)
        assert pattern.grid(shape) == (high, wide)
        every = pattern.spread(torch.zeros(high, wide, dtype=torch.bool), shape)
        assert int((~every).sum()) == high * wide * per_unit
        torch.testing.assert_close(float(units.sum()), float(scores[~every].sum()))

    @given(data=st.data())
    @settings(deadline=None, max_examples=12)
    def test_cut_at_multiples_of_the_span_the_units_are_the_same(self, kind, data):
        """What a solver relies on that goes through the columns from left to right."""
        pattern, scores, _ = data.draw(problems(ANY[kind]))
        shape = tuple(scores.shape)
        taps, columns = math.prod(shape[2:]), math.prod(shape[1:])
        span = pattern.span(shape)
        cut = span * data.draw(st.integers(0, max(0, columns // span)))
        if cut % taps:
            return
        parts = [scores[:, : cut // taps], scores[:, cut // taps :]]
        whole = sum(math.prod(pattern.grid(tuple(part.shape))) for part in parts if part.numel())
        if scores.numel() and span < columns:
            assert whole == math.prod(pattern.grid(shape))

    @given(data=st.data())
    @settings(deadline=None, max_examples=10)
    def test_all_equal_keeps_the_lower_units(self, kind, data):
        pattern, scores, sparsity = data.draw(problems(ANY[kind]))
        keep = pattern.select(torch.zeros_like(scores), sparsity)
        if not pattern.fixes_sparsity:
            kept = pattern.pool(keep.float()).flatten() > 0
            assert not scores.numel() or (kept.int().diff() <= 0).all()
        elif isinstance(pattern, (KernelPattern, OnePerKernel, StridedKernel)):
            kernels = keep.reshape(math.prod(keep.shape[:2]), math.prod(keep.shape[2:]))
            assert not kernels.numel() or (kernels == kernels[0]).all()
            assert not kernels.numel() or bool(kernels[0, 0])

    def test_what_comes_in_wrong_is_said(self, kind):
        pattern = EXAMPLES[kind]
        scores = torch.ones(4, 4, 3, 3)
        scores[1, 2, 0, 0] = torch.nan
        with pytest.raises(PatternError, match="1 NaN"):
            pattern.select(scores, None if pattern.fixes_sparsity else 0.5)
        if pattern.fixes_sparsity:
            with pytest.raises(PatternError, match=r"fixes its own sparsity: expected .* or None, got 0\.123"):
                pattern.select(torch.ones(4, 4, 3, 3), 0.123)
        else:
            with pytest.raises(PatternError, match="does not fix its own sparsity"):
                pattern.select(torch.ones(4, 4, 3, 3), None)

    @pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 4, 3, 3)], ids=str)
    def test_a_refusal_is_the_same_everywhere(self, kind, shape):
        pattern, scores = EXAMPLES[kind], torch.rand(shape)
        reason = pattern.refuses(shape)
        if reason is None:
            assert pattern.admits(pattern.select(scores, None if pattern.fixes_sparsity else 0.5))
            return
        assert str(shape) in reason
        for act in (
            lambda: pattern.select(scores, 0.5),
            lambda: pattern.choose(scores, 1),
            lambda: pattern.grid(shape),
        ):
            with pytest.raises(PatternError, match="needs"):
                act()
        with pytest.raises(MaskError, match="needs"):
            Mask(torch.ones(shape, dtype=torch.bool), pattern)


EXAMPLES = {
    Unstructured: Unstructured(),
    NM: NM(2, 4),
    Block: Block(2, 4),
    TransposableNM: TransposableNM(2, 4),
    VNM: VNM(2, 2, 8),
    Filter: Filter(),
    Channel: Channel(),
    Head: Head(2),
    KernelSlice: KernelSlice(),
    KernelPattern: KernelPattern(),
    OnePerKernel: OnePerKernel(),
    StridedKernel: StridedKernel(),
    PerTap: PerTap(NM(2, 4)),
    AllTaps: AllTaps(Block(2, 2)),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 10, 1))


MORE = [
    Head(4, 1),
    Head(5),
    KernelPattern(2, 3),
    StridedKernel(3, "layer"),
    Block(3, 7),
    NM(2, 9),
    TransposableNM(3, 7),
    VNM(3, 2, 9),
    PerTap(Block(3, 2)),
    PerTap(VNM(2, 2, 4)),
    PerTap(Channel()),
    AllTaps(NM(1, 3)),
    AllTaps(Filter()),
]


@pytest.mark.parametrize("pattern", [*EXAMPLES.values(), *MORE], ids=str)
@pytest.mark.parametrize("block_size", [4, 128])
def test_sparsegpt_takes_every_pattern(pattern, block_size):
    model, sparsity = network(), None if pattern.fixes_sparsity else 0.4
    masks = prune(model, SparseGPT(block_size=block_size), pattern, sparsity, batches=[torch.randn(4, 4, 9, 9)])
    for name, weight in model.named_parameters():
        if name in masks:
            assert masks[name].nnz == kept_count(pattern, tuple(weight.shape), sparsity)
            assert pattern.admits(masks[name].keep)
            assert not weight[~masks[name].keep].any()
            assert weight.isfinite().all()


@pytest.mark.parametrize("pattern", [p for p in EXAMPLES.values() if not p.fixes_sparsity], ids=str)
def test_a_global_budget_over_units(pattern):
    """Exactly half of all units go; the threshold is the same in each layer."""
    model = network()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    masks = prune(model, Magnitude(), pattern, 0.5, allocation=Global())
    scores = {name: pattern.pool(before[name].abs()).flatten() for name in masks}
    kept = {name: pattern.pool(mask.keep.float()).flatten() > 0 for name, mask in masks.items()}
    total = sum(len(units) for units in scores.values())
    assert sum(int(units.sum()) for units in kept.values()) == total - total // 2
    lowest_kept = min(float(scores[name][kept[name]].min()) for name in masks if kept[name].any())
    highest_gone = max(float(scores[name][~kept[name]].max()) for name in masks if not kept[name].all())
    assert highest_gone <= lowest_kept


def test_rows_of_a_single_unit_are_compared_with_each_other():
    """Wanda compares within rows; a row that is one unit has nothing else to be compared with."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(8, 10), torch.randn(16, 8)
    strength = (layer.weight.detach().abs() * inputs.norm(dim=0)).sum(dim=1)
    masks = prune(nn.Sequential(layer), Wanda(), Filter(), 0.5, batches=[inputs])
    assert set((~masks["0.weight"].keep[:, 0]).nonzero().flatten().tolist()) == set(strength.argsort()[:5].tolist())


def test_a_layer_that_is_refused_is_named_and_nothing_changes():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(PatternError, match=r"2\.weight: KernelSlice\(\) needs kernels.*\(2, 4\)"):
        prune(model, Magnitude(), KernelSlice(), 0.5)
    with pytest.raises(PatternError, match=r"0\.weight: OnePerKernel.* expected 0\.888889 or None, got 0\.5"):
        prune(model, Magnitude(), OnePerKernel(), 0.5, layers=["0"])
    assert all(torch.equal(value, old) for value, old in zip(model.parameters(), before))


def test_public():
    for kind in PATTERNS:
        assert getattr(sk, kind.__name__) is kind
        assert kind in EXAMPLES
        assert str(EXAMPLES[kind]).startswith(f"{kind.__name__}(")
