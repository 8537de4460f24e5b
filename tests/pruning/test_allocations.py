import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import PatternError, PruningError
from sparsekit.patterns import Unstructured
from sparsekit.patterns.base import removed
from sparsekit.pruning.allocations import ALLOCATIONS, ERK, OWL, CostWeighted, ErdosRenyi, Global, Sensitivity, Uniform
from sparsekit.pruning.budget import fit, shared_out

SHAPES = {"stem": (16, 3, 3, 3), "mid": (64, 64, 3, 3), "wide": (512, 256), "head": (10, 512)}


def scores(shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def prepared(kind):
    """An allocation that knows what it has to about layers of ``SHAPES``; a cost is 1 per weight."""
    names = (*SHAPES, "none")
    costs = {name: float(torch.Size(shape).numel()) for name, shape in SHAPES.items()}
    known = {
        OWL: {"outliers": tuple((name, i / 100) for i, name in enumerate(names))},
        CostWeighted: {"costs": costs | {"none": 1}},
        Sensitivity: {"curves": {name: {0.0: 0.0, 0.5: i / 2, 1.0: 9.0} for i, name in enumerate(names)}},
    }
    return kind(**known.get(kind, {}))


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_contract(kind):
    allocation = prepared(kind)
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


@pytest.mark.parametrize(
    ("normalise", "scale"), [("l2", lambda s: s.square().sum().sqrt()), ("mean", torch.mean), ("max", torch.max)]
)
def test_global_normalised_is_a_sort_of_scaled_scores(normalise, scale):
    values = {name: score * 10**i for i, (name, score) in enumerate(scores().items())}
    shares = Global(normalise).sparsities(values, 0.6)
    scaled = {name: score.double() / scale(score.double()) for name, score in values.items()}
    ranked = torch.cat([score.flatten() for score in scaled.values()]).sort().values
    threshold = ranked[removed(0.6, len(ranked))]
    expected = {name: (score < threshold).double().mean().item() for name, score in scaled.items()}
    assert shares == pytest.approx(expected)
    values["mid"] = values["mid"] * 64
    assert Global(normalise).sparsities(values, 0.6) == shares


@pytest.mark.parametrize("normalise", [None, "l2", "mean", "max"])
def test_units_that_are_gone_rank_lowest_and_do_not_count(normalise):
    values = scores({"a": (20, 20), "b": (10, 10)})
    kept_only = {"a": values["a"][:10], "b": values["b"]}
    gone = {"a": values["a"].clone(), "b": values["b"]}
    gone["a"][10:] = -torch.inf
    allocation = Global(normalise)
    shares, fewer = allocation.sparsities(gone, 0.6), allocation.sparsities(kept_only, 1 / 3)
    assert shares["b"] == fewer["b"]
    assert shares["a"] == pytest.approx((200 + fewer["a"] * 200) / 400)
    gone["a"][:] = -torch.inf
    assert allocation.sparsities(gone, 0.8) == {"a": 1.0, "b": 0.0}
    zero = {"a": torch.zeros(4), "b": torch.ones(4)}
    assert allocation.sparsities(zero, 0.5) == {"a": 1.0, "b": 0.0}


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.01, 0.2, 0.5]),
)
@settings(deadline=None)
def test_global_with_a_minimum(layers, percent, minimum):
    values = {str(i): torch.tensor(layer, dtype=torch.float32) for i, layer in enumerate(layers)}
    total = sum(map(len, layers))
    least = {name: -(-round(100 * minimum) * len(layer) // 100) for name, layer in values.items()}
    kept = total - percent * total // 100
    allocation = Global(minimum=minimum)
    if sum(least.values()) > kept:
        with pytest.raises(PruningError, match="a minimum that the budget of"):
            allocation.sparsities(values, percent / 100)
        return
    shares = allocation.sparsities(values, percent / 100)
    counts = {name: len(values[name]) - removed(shares[name], len(values[name])) for name in values}
    assert sum(counts.values()) == kept
    assert all(counts[name] >= least[name] for name in values)
    free = [score for name, layer in values.items() for score in sorted(layer.tolist(), reverse=True)[least[name] :]]
    chosen = sum(sum(sorted(layer.tolist(), reverse=True)[least[n] : counts[n]]) for n, layer in values.items())
    assert chosen == sum(sorted(free, reverse=True)[: kept - sum(least.values())])


@pytest.mark.parametrize("arguments", [{"normalise": "l3"}, {"minimum": 1.0}, {"minimum": -0.1}])
def test_global_refuses(arguments):
    with pytest.raises(PruningError, match=r"expected (None, 'l2'|a fraction)"):
        Global(**arguments)


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


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5), st.integers(0, 50)), min_size=1, max_size=6),
    st.floats(0, 0.2),
    st.floats(0.25, 1),
)
@settings(deadline=None)
def test_a_budget_is_met_by_one_common_move(layers, low, density):
    """Checked from the definition: recover the move from the layers that are not clipped, and apply it to all."""
    start, slope, sizes = ({str(i): layer[k] for i, layer in enumerate(layers)} for k in range(3))
    total = sum(sizes.values())
    found = fit(start, slope, sizes, density * total, low)
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(density * total)
    moves = [(found[n] - start[n]) / slope[n] for n in sizes if sizes[n] and low + 1e-9 < found[n] < 1 - 1e-9]
    assert moves == pytest.approx([moves[0]] * len(moves) if moves else [])
    for name in sizes if moves else ():
        if sizes[name]:
            assert found[name] == pytest.approx(min(1, max(low, start[name] + moves[0] * slope[name])))


def test_whole_numbers_that_add_up():
    assert shared_out([1.5, 2.25, 0.25], 4) == [2, 2, 0]
    assert shared_out([0.5, 0.5, 1.0], 2) == [1, 0, 1]


def test_uniform_with_a_dense_first_layer():
    shares = Uniform(first_dense=True).sparsities(scores(), 0.7)
    size = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
    assert shares["stem"] == 0.0
    assert shares["mid"] == shares["wide"] == shares["head"] > 0.7
    assert sum(shares[name] * size[name] for name in SHAPES) == pytest.approx(0.7 * sum(size.values()))
    with pytest.raises(PruningError, match=r"possible with a dense, at most 0\.5, got 0\.6"):
        Uniform(first_dense=True).sparsities({"a": torch.ones(4), "b": torch.ones(4)}, 0.6)


def test_erdos_renyi_does_not_see_kernels():
    shapes = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    linear = {name: shapes[name] for name in ("wide", "head")}
    assert ErdosRenyi().sparsities(linear, 0.8) == ERK().sparsities(linear, 0.8)
    shares = ErdosRenyi().sparsities(shapes, 0.8)
    assert shares != pytest.approx(ERK().sparsities(shapes, 0.8))
    raw = {name: (shape[0] + shape[1]) / (shape[0] * shape[1]) for name, shape in SHAPES.items()}
    scale = (1 - shares["wide"]) / raw["wide"]
    assert shares == pytest.approx({name: 1 - min(1, scale * raw[name]) for name in SHAPES})


@pytest.mark.parametrize("kind", [ERK, ErdosRenyi])
def test_no_layer_falls_below_the_minimum(kind):
    shapes = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    size = {name: shape.numel() for name, shape in shapes.items()}
    assert kind().sparsities(shapes, 0.98)["wide"] > 0.985
    shares = kind(minimum=0.018).sparsities(shapes, 0.98)
    assert max(shares.values()) == pytest.approx(1 - 0.018)
    assert sum(shares[name] * size[name] for name in SHAPES) == pytest.approx(0.98 * sum(size.values()))
    with pytest.raises(PruningError, match=r"at most 0\.02, got 0\.1"):
        kind(minimum=0.1).sparsities(shapes, 0.98)


def test_erk_by_hand():
    """Two layers, 75 %: densities in the ratio 1 : 2, kept 100 of 400 + 100 weights... and one above 1."""
    shares = ERK().sparsities({"big": torch.empty(20, 20), "small": torch.empty(10, 10)}, 0.75)
    # raw: 0.1 and 0.2; kept 125 = scale * (0.1 * 400 + 0.2 * 100)
    assert shares == pytest.approx({"big": 1 - 125 / 60 * 0.1, "small": 1 - 125 / 60 * 0.2})
    shares = ERK().sparsities({"big": torch.empty(20, 20), "small": torch.empty(2, 2)}, 0.5)
    assert shares == pytest.approx({"big": 1 - 198 / 400, "small": 0.0})
