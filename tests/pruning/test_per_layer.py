import pytest
import torch
from torch import nn

from sparsekit.errors import LayerError, PruningError
from sparsekit.patterns import NM
from sparsekit.pruning import Criterion, Magnitude, PerLayer, prune


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 10))


def sparsities(masks):
    return {name: pytest.approx(mask.sparsity, abs=1e-9) for name, mask in masks.items()}


def test_a_list_of_every_layer_sets_the_total():
    listed = PerLayer({"0.weight": 0.25, "2": 0.5, "4": 0.9})
    for sparsity in (None, (0.25 * 600 + 0.5 * 1200 + 0.9 * 400) / 2200):
        masks = prune(network(), Magnitude(), sparsity=sparsity, allocation=listed)
        assert sparsities(masks) == {"0.weight": 0.25, "2.weight": 0.5, "4.weight": 0.9}
    with pytest.raises(PruningError, match=r"None or 0\.5045, which follows from the list, got 0\.9"):
        prune(network(), Magnitude(), sparsity=0.9, allocation=listed)


def test_a_default_covers_what_is_not_listed():
    masks = prune(network(), Magnitude(), allocation=PerLayer({"4": 0.0}, default=0.5))
    assert sparsities(masks) == {"0.weight": 0.5, "2.weight": 0.5, "4.weight": 0.0}


def test_what_is_not_listed_shares_what_is_left():
    masks = prune(network(), Magnitude(), sparsity=0.5, allocation=PerLayer({"4": 0.0}))
    assert masks["4.weight"].nnz == 400
    assert sum(mask.keep.numel() - mask.nnz for mask in masks.values()) == pytest.approx(1100, abs=2)
    assert masks["0.weight"].sparsity == pytest.approx(1100 / 1800, abs=2e-3)
    assert masks["2.weight"].sparsity == pytest.approx(1100 / 1800, abs=2e-3)


def test_patterns_of_names_an_exact_name_wins_then_the_first():
    shapes = {f"encoder.{i}.{kind}.weight": torch.empty(10, 10) for i in range(2) for kind in ("query", "value")}
    shares = PerLayer({"encoder.*": 0.1, "*.query.weight": 0.2, "encoder.1.query": 0.3}).sparsities(shapes, 0.5)
    assert shares == pytest.approx(dict.fromkeys(shapes, 0.1) | {"encoder.1.query.weight": 0.3})
    shares = PerLayer({"*.query": 0.2, "encoder.*": 0.1}).sparsities(shapes, 0.5)
    assert list(shares.values()) == pytest.approx([0.2, 0.1, 0.2, 0.1])


@pytest.mark.parametrize(
    ("allocation", "sparsity", "error", "message"),
    [
        (PerLayer({"head": 0.5}), 0.5, LayerError, "expected names of layers that are pruned, got 'head'"),
        (PerLayer({"2.weigth": 0.5}), 0.5, LayerError, "did you mean '2.weight'"),
        (PerLayer({"4": 0.5}), None, PruningError, "got none for 0.weight and 1 more"),
        (PerLayer({"2": 0.0, "4": 0.0}), 0.9, PruningError, "the other layers would have to lose"),
        (PerLayer({"2": 0.9}), 0.1, PruningError, "the other layers would have to lose -"),
    ],
)
def test_what_cannot_be(allocation, sparsity, error, message):
    model = network()
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(error, match=message):
        prune(model, Magnitude(), sparsity=sparsity, allocation=allocation)
    assert all(torch.equal(value, old) for value, old in zip(model.parameters(), before))


@pytest.mark.parametrize("wrong", [1.0, -0.1, "half", None])
def test_every_sparsity_is_a_fraction(wrong):
    with pytest.raises(PruningError, match=r"PerLayer: a: expected a fraction in \[0, 1\)"):
        PerLayer({"a": wrong})


def test_is_a_value():
    assert PerLayer({"a": 0.5}) == PerLayer((("a", 0.5),))
    assert len({PerLayer({"a": 0.5}), PerLayer({"a": 0.5}), PerLayer({"a": 0.6})}) == 2
    assert repr(PerLayer({"a": 0.5}, default=0.1)) == "PerLayer(layers=(('a', 0.5),), default=0.1)"


def test_a_pattern_that_fixes_the_sparsity_has_nothing_to_list():
    with pytest.raises(PruningError, match="nothing to share out"):
        prune(network(), Magnitude(), NM(2, 4), allocation=PerLayer(default=0.5))


class Rounds(Criterion):
    """Magnitude in three rounds."""

    rounds = 3
    seen = ()

    def score(self, weight, stats):
        self.seen = (*self.seen, (stats.name, float((weight == 0).float().mean())))
        return weight.abs()


def test_rounds_lead_to_the_list_geometrically():
    method = Rounds()
    masks = prune(network(), method, allocation=PerLayer({"0": 0.488, "2": 0.875, "4": 0.0}))
    assert sparsities(masks) == {"0.weight": 292 / 600, "2.weight": 0.875, "4.weight": 0.0}
    before = [share for name, share in method.seen if name == "2.weight"]
    assert before == pytest.approx([0.0, 0.5, 0.75], abs=1e-3)  # density 1/8 in three halvings
