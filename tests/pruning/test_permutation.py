"""The search for an order, against brute force and against what no order can beat."""

from itertools import combinations, permutations

import pytest
import torch
from torch import nn

from sparsekit.errors import CalibrationError, PatternError, PruningError
from sparsekit.patterns import NM, VNM, Block
from sparsekit.pruning import Magnitude, Wanda, permute_for, prune
from sparsekit.pruning.permutation.objective import GroupObjective
from sparsekit.pruning.permutation.stripes import search_stripes, splits

PATTERNS = [NM(2, 4), NM(4, 8), NM(1, 16), NM(3, 5), Block(4, 4), Block(1, 8), VNM(4, 2, 8)]
METHODS = ["stripes", "swaps", "reallocate"]


def pair(inputs=6, hidden=8, outputs=5, seed=0, heavy=False):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    if heavy:
        with torch.no_grad():
            model[2].weight.copy_(torch.randn(outputs, hidden) ** 3)
    return model


def kept(weight, n, m):
    """What N:M keeps, from the definition; trailing columns are kept."""
    whole = weight.shape[1] // m * m
    groups = weight[:, :whole].abs().double().reshape(len(weight), -1, m)
    return float(groups.sort(dim=2, descending=True).values[..., :n].sum() + weight[:, whole:].abs().double().sum())


def brute_force(weight, n, m):
    return max(kept(weight[:, list(order)], n, m) for order in permutations(range(weight.shape[1])))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4)])
def test_eight_columns_reach_the_optimum(n, m, seed):
    model = pair(seed=seed)
    weight = model[2].weight.detach().clone()
    best = max(
        kept(torch.cat([weight[:, list(first)], weight[:, [i for i in range(8) if i not in first]]], dim=1), n, m)
        for first in permutations(range(8), 4)
    )
    layer = permute_for(model, NM(n, m), torch.randn(2, 6), escapes=0)["2.weight"]
    assert layer.after == pytest.approx(best, rel=1e-6)
    assert kept(model[2].weight.detach(), n, m) == pytest.approx(best, rel=1e-6)
    order = torch.arange(8) if layer.order is None else layer.order
    assert torch.equal(model[2].weight, weight[:, order])


def test_one_window_is_searched_to_its_end():
    """Where no trade of two columns helps any more, another division of the window may."""
    torch.manual_seed(0)
    scores = torch.randn(60, 8).abs()
    objective = GroupObjective(scores, NM(2, 4))
    search_stripes(objective, 10, 0, torch.Generator())
    found = {frozenset(part.tolist()) for part in objective.order.reshape(2, 4)}
    divisions = {frozenset(first): frozenset(set(range(8)) - set(first)) for first in combinations(range(8), 4)}
    values = {frozenset({a, b}): kept(scores[:, [*sorted(a), *sorted(b)]], 2, 4) for a, b in divisions.items()}
    assert len(values) == 35
    assert found == max(values, key=values.get)
    assert len(splits(4)) == 35


def test_small_groups_and_a_tail_reach_the_optimum():
    for seed in range(5):
        model = pair(hidden=7, outputs=3, seed=seed)
        best = brute_force(model[2].weight.detach(), 1, 2)
        after = permute_for(model, NM(1, 2), torch.randn(2, 6), escapes=10)["2.weight"].after
        assert after >= 0.99 * best
        assert after <= best * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "pattern", [NM(2, 4), NM(4, 8), NM(1, 16), NM(3, 5), Block(4, 4), Block(1, 8), VNM(4, 2, 8)], ids=str
)
def test_more_is_kept_and_never_more_than_there_is(pattern, method):
    model = pair(hidden=48, outputs=24, heavy=True)
    before = model[2].weight.detach().clone()
    given = None if pattern.fixes_sparsity else 0.5
    result = permute_for(model, pattern, torch.randn(2, 6), method=method, sparsity=given, windows=100)
    layer = result["2.weight"]
    scores = model[2].weight.detach().abs()
    keep = pattern.select(scores, given)
    assert layer.before == pytest.approx(float(before.abs()[pattern.select(before.abs(), given)].sum()), rel=1e-5)
    assert layer.after == pytest.approx(float(scores[keep].sum()), rel=1e-5)
    assert layer.bound == pytest.approx(float(before.abs().flatten().topk(int(keep.sum())).values.sum()), rel=1e-5)
    assert layer.before < layer.after <= layer.bound
    assert 0 < layer.closed <= 1
    assert torch.equal(before[:, layer.order], model[2].weight)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_nothing_else(method):
    found = []
    for outside in (1, 2):
        model = pair(hidden=40, outputs=16)
        torch.manual_seed(outside)
        inputs, state = torch.ones(2, 6), torch.get_rng_state()
        found.append(permute_for(model, NM(2, 4), inputs, method=method, seed=3)["2.weight"].order)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)


def test_siblings_share_one_order():
    class Siblings(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(16, 7)

        def forward(self, x):
            x = self.up(x)
            return self.a(x), self.b(x)

    torch.manual_seed(0)
    model = Siblings()
    both = torch.cat([model.a.weight, model.b.weight]).detach()
    result = permute_for(model, NM(2, 4), torch.randn(2, 4))
    assert torch.equal(result["a.weight"].order, result["b.weight"].order)
    moved = both[:, result["a.weight"].order]
    assert torch.equal(torch.cat([model.a.weight, model.b.weight]), moved)
    assert kept(moved, 2, 4) > kept(both, 2, 4)


def test_blocks_cluster_what_is_strong():
    """A matrix that consists of full blocks, shuffled, is put together again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False))
    strong = torch.kron(torch.eye(4)[:, :2].repeat(1, 2) * 1.0, torch.ones(2, 4))
    shuffled = strong[:, torch.randperm(16)]
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        model[1].weight.copy_(shuffled)
    half = float(strong.sum()) / strong.numel()
    layer = permute_for(model, Block(2, 4), torch.randn(2, 8), method="reallocate", sparsity=1 - half, layers=["1"])[
        "1.weight"
    ]
    assert layer.after == layer.bound == float(strong.sum())


def test_scores_of_another_criterion():
    torch.manual_seed(0)
    batch = torch.randn(64, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    model = pair(hidden=16, outputs=8)
    result = permute_for(model, NM(2, 4), batch, Wanda(), batches=[batch])["2.weight"]
    hidden = torch.relu(model[0](batch)).norm(dim=0)
    assert result.after == pytest.approx(kept((model[2].weight * hidden).detach(), 2, 4), rel=1e-4)
    assert result.after > result.before


def test_gradients_move_along():
    model = pair(hidden=16, outputs=8)
    x = torch.randn(4, 6)
    model(x).square().sum().backward()
    before = model[2].weight.grad.clone()
    order = permute_for(model, NM(2, 4), x)["2.weight"].order
    assert torch.equal(model[2].weight.grad, before[:, order])


def test_report_reads_well():
    text = str(permute_for(pair(), NM(2, 4), torch.randn(2, 6)))
    assert "2.weight" in text
    assert "of the gap closed" in text
    assert "inputs are fixed" in text


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (PruningError, "one of stripes, swaps, reallocate, got 'best'", {"method": "best"}),
        (PatternError, "expected sparsity in", {"pattern": Block(2, 2)}),
        (PatternError, "fixes its own sparsity", {"sparsity": 0.9}),
        (CalibrationError, "needs batches", {"criterion": Wanda()}),
        (PruningError, "criterion: expected a Criterion", {"criterion": Magnitude}),
    ],
)
def test_errors(error, match, arguments):
    model = pair()
    with pytest.raises(error, match=match):
        permute_for(model, **{"pattern": NM(2, 4), "example_inputs": torch.randn(2, 6), **arguments})


def test_an_order_helps_magnitude():
    """The mask that pruning makes afterwards is the promised one."""
    model = pair(hidden=64, outputs=32, heavy=True)
    result = permute_for(model, NM(2, 4), torch.randn(2, 6))["2.weight"]
    prune(model, Magnitude(), NM(2, 4))
    assert float(model[2].weight.detach().abs().sum()) == pytest.approx(result.after, rel=1e-5)
