import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.patterns import Block
from sparsekit.patterns.base import removed
from sparsekit.planning import layer_costs
from sparsekit.pruning import CostWeighted, Global, Magnitude, SparseGPT, Uniform, Wanda, prune
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.targets import find_targets


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.mid = nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding="same")
        self.wide = nn.Conv2d(12, 16, (3, 1), stride=(2, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.wide(self.mid(self.stem(x).relu()).relu()).relu()
        return self.head(x.flatten(2).transpose(1, 2))


def test_operations_are_counted_as_torch_counts_them():
    model, x = Net(), torch.randn(2, 3, 17, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with FlopCounterMode(display=False) as counter:
            model(x)
    with torch.no_grad():
        costs = dict(CostWeighted().prepare(ModelProblem(model, find_targets(model), [x])).costs)
    counted = {f"{n}.weight": sum(c.values()) for n, c in counter.get_flop_counts().items()}
    counted = {name.split(".", 1)[1]: flops for name, flops in counted.items() if name.count(".") > 1}
    assert costs == {name: counted[name] for name in costs}
    assert len(costs) == 4


@pytest.mark.parametrize("seed", range(6))
def test_no_choice_that_saves_as_much_loses_less(seed):
    """Against every subset of the units of three layers."""
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(size, generator=generator) for name, size in (("a", 4), ("b", 3), ("c", 4))}
    cost = {"a": 1.0, "b": 2.5, "c": 6.0}
    allocation = CostWeighted({name: cost[name] * len(scores[name]) for name in scores})
    total = sum(cost[name] * len(units) for name, units in scores.items())
    for sparsity in (0.1, 0.4, 0.7):
        shares = allocation.sparsities(scores, sparsity)
        counts = {name: removed(shares[name], len(units)) for name, units in scores.items()}
        saved = sum(cost[name] * count for name, count in counts.items())
        lost = sum(float(scores[name].sort().values[: counts[name]].sum()) for name in scores)
        assert saved <= sparsity * total + 1e-9
        units = [(float(value), cost[name]) for name, values in scores.items() for value in values]
        choices = itertools.product((0, 1), repeat=len(units))
        sums = (
            (sum(value * c for (value, _), c in zip(units, chosen)), sum(w * c for (_, w), c in zip(units, chosen)))
            for chosen in choices
        )
        assert lost == pytest.approx(min(loss for loss, saving in sums if saving >= saved - 1e-9), rel=1e-5)
        assert saved > sparsity * total - max(cost.values())


def test_with_equal_costs_it_is_global_or_uniform():
    torch.manual_seed(0)
    scores = {"a": torch.randint(0, 5, (20, 10)).float(), "b": torch.rand(30, 5), "c": torch.empty(0, 3)}
    costs = {"a": 200.0, "b": 150.0, "c": 1.0}
    for sparsity in (0.0, 0.3, 0.71):
        assert CostWeighted(costs).sparsities(scores, sparsity) == Global().sparsities(scores, sparsity)
        shares = CostWeighted(costs).without_scores().sparsities(scores, sparsity)
        assert shares == pytest.approx(Uniform().sparsities(scores, sparsity) | {"c": 0.0})


def test_without_scores_density_falls_with_cost_per_weight():
    shapes = {name: torch.empty(10, 10, device="meta") for name in "abc"}
    shares = CostWeighted({"a": 100.0, "b": 200.0, "c": 800.0}, by_score=False).sparsities(shapes, 0.9)
    density = {name: 1 - share for name, share in shares.items()}
    assert density["a"] == pytest.approx(2 * density["b"])
    assert density["b"] == pytest.approx(4 * density["c"])
    assert 100 * density["a"] + 200 * density["b"] + 800 * density["c"] == pytest.approx(110)


def test_the_sparsity_is_that_of_the_cost():
    for method in (Magnitude(), Wanda(), SparseGPT()):
        model, x = Net(), torch.randn(2, 3, 17, 12)
        masks = prune(model, method, sparsity=0.6, allocation=CostWeighted(), batches=[x])
        problem = ModelProblem(model, find_targets(model), [x])
        with torch.no_grad():
            costs = dict(CostWeighted().prepare(problem).costs)
        saved = sum(costs[name] * masks[name].sparsity for name in masks) / sum(costs.values())
        assert saved == pytest.approx(0.6, abs=0.03)
        assert masks["head.weight"].sparsity < 0.6  # the layer with the fewest operations per weight


def test_blocks_cost_what_their_weights_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 16))
    masks = prune(model, Magnitude(), Block(4, 4), 0.5, allocation=CostWeighted({"0.weight": 3.0, "1.weight": 1.0}))
    saved = 3 * masks["0.weight"].sparsity + masks["1.weight"].sparsity
    assert 2 - 0.75 < saved <= 2


def test_a_minimum_protects_a_layer():
    scores = {"a": torch.zeros(10), "b": torch.ones(10)}
    assert CostWeighted({"a": 1.0, "b": 1.0}).sparsities(scores, 0.5) == {"a": 1.0, "b": 0.0}
    shares = CostWeighted({"a": 1.0, "b": 1.0}, minimum=0.25).sparsities(scores, 0.5)
    assert shares == {"a": 0.7, "b": 0.3}


def test_measured_costs_are_by_parameter_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    model[2].weight = model[0].weight
    costs = layer_costs(model, torch.randn(4, 16))
    assert list(costs) == ["0.weight", "3.weight"]
    assert all(cost > 0 for cost in costs.values())
    prune(model, Magnitude(), sparsity=0.5, allocation=CostWeighted(costs))


def test_says_what_it_lacks():
    with pytest.raises(CalibrationError, match="needs batches of what the model takes, got None"):
        prune(Net(), Magnitude(), sparsity=0.5, allocation=CostWeighted())
    with pytest.raises(PruningError, match=r"a cost of every layer, got none of mid\.weight"):
        prune(Net(), Magnitude(), sparsity=0.5, allocation=CostWeighted({"stem.weight": 1.0}))
    with pytest.raises(PruningError, match="a positive cost of a, got 0"):
        CostWeighted({"a": 0})
    with pytest.raises(PruningError, match="costs, which prepare"):
        CostWeighted().sparsities({"a": torch.ones(2)}, 0.5)


def test_is_a_value():
    assert CostWeighted({"a": 1.0}) == CostWeighted((("a", 1.0),))
    assert hash(CostWeighted({"a": 1.0})) == hash(CostWeighted({"a": 1.0}))
