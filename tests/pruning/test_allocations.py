import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import PatternError
from sparsekit.patterns import Unstructured
from sparsekit.patterns.base import removed
from sparsekit.pruning.allocations import ALLOCATIONS, ERK, Global, Uniform

SHAPES = {"stem": (16, 3, 3, 3), "mid": (64, 64, 3, 3), "wide": (512, 256), "head": (10, 512)}


def scores(shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("allocation", [kind() for kind in ALLOCATIONS], ids=str)
def test_contract(allocation):
    for sparsity in (0.0, 0.5, 0.9, 0.99):
        shares = allocation.sparsities(scores(), sparsity)
        assert list(shares) == list(SHAPES)
        assert all(0.0 <= share <= 1.0 for share in shares.values())
        gone = sum(removed(shares[name], values.numel()) for name, values in scores().items())
        wanted = sparsity * sum(values.numel() for values in scores().values())
        assert abs(gone - wanted) <= len(SHAPES)
    assert allocation.sparsities({}, 0.5) == {}
    assert allocation.sparsities({"none": torch.empty(0, 4)}, 0.5)["none"] in (0.0, 0.5)
    with pytest.raises(PatternError):
        allocation.sparsities(scores(), 1.0)


def test_uniform():
    assert Uniform().sparsities(scores(), 0.7) == dict.fromkeys(SHAPES, 0.7)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 99))
@settings(deadline=None)
def test_global_equals_a_sort_of_everything(layers, percent):
    values = {str(i): torch.tensor(layer, dtype=torch.float32) for i, layer in enumerate(layers)}
    flat = [(score, -place) for place, score in enumerate(score for layer in layers for score in layer)]
    gone = {-place for _, place in sorted(flat)[: percent * len(flat) // 100]}
    start = 0
    shares = Global().sparsities(values, percent / 100)
    for name, layer in values.items():
        expected = [start + i not in gone for i in range(len(layer))]
        share = shares[name]
        keep = [False] * len(layer) if share == 1 else Unstructured().select(layer[None], share)[0].tolist()
        assert keep == expected
        start += len(layer)


def test_global_is_exact_where_float32_counts_are_not():
    values = scores({"a": (3001, 1009), "b": (700, 701)})
    total = sum(v.numel() for v in values.values())
    shares = Global().sparsities(values, 0.9)
    assert sum(removed(shares[name], v.numel()) for name, v in values.items()) == removed(0.9, total)


def test_global_follows_the_scale_of_scores():
    values = scores()
    before = Global().sparsities(values, 0.5)
    values["mid"] = values["mid"] * 2
    after = Global().sparsities(values, 0.5)
    assert after["mid"] < before["mid"]
    assert all(after[name] >= before[name] for name in SHAPES if name != "mid")


def test_global_may_empty_a_layer():
    assert Global().sparsities({"a": torch.zeros(4), "b": torch.ones(4)}, 0.5) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.9, 0.98])
def test_erk_is_proportional_and_adds_up(sparsity):
    shares = ERK().sparsities({name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}, sparsity)
    size = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
    kept = sum((1 - shares[name]) * size[name] for name in SHAPES)
    assert kept == pytest.approx((1 - sparsity) * sum(size.values()))
    ratios = [(1 - shares[name]) / (sum(shape) / size[name]) for name, shape in SHAPES.items() if shares[name] > 0]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    raw = {name: sum(shape) / size[name] for name, shape in SHAPES.items()}
    for name in SHAPES:
        if shares[name] == 0:  # dense because its density would have been above 1
            assert ratios[0] * raw[name] >= 1


def test_erk_by_hand():
    """Two layers, 75 %: densities in the ratio 1 : 2, kept 100 of 400 + 100 weights... and one above 1."""
    shares = ERK().sparsities({"big": torch.empty(20, 20), "small": torch.empty(10, 10)}, 0.75)
    # raw: 0.1 and 0.2; kept 125 = scale * (0.1 * 400 + 0.2 * 100)
    assert shares == pytest.approx({"big": 1 - 125 / 60 * 0.1, "small": 1 - 125 / 60 * 0.2})
    shares = ERK().sparsities({"big": torch.empty(20, 20), "small": torch.empty(2, 2)}, 0.5)
    assert shares == pytest.approx({"big": 1 - 198 / 400, "small": 0.0})
