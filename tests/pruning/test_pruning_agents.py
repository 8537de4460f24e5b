import itertools
import math

import pytest
import torch
from torch import nn

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Block, Filter, Unstructured
from sparsekit.pruning import PruningAgents, SampledOutput, prune
from sparsekit.pruning.searches.pruning_agents import Agent, features_of, reward


def test_the_reward_is_zero_where_nothing_goes_and_turns_at_the_tolerance():
    assert reward(0.3, 0.1, 8, 8) == 0.0
    assert reward(0.05, 0.1, 8, 4) == pytest.approx((0.1 - 0.05) / 0.1 * math.log(2))
    assert reward(0.0999, 0.1, 8, 4) > 0 > reward(0.1001, 0.1, 8, 4)
    earned = [reward(0.05, 0.1, 8, kept) for kept in range(8, 0, -1)]
    assert earned == sorted(earned)
    assert len(set(earned)) == 8


def three_filters():
    """Filter 1 is all that the output needs; filter 0 matters a little, filter 2 not at all."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [2, 2, -2, -2]]))
        model[1].weight.copy_(torch.tensor([[0.3, 1.0, 0.0]]))
    return model


def inputs():
    return torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tolerance", [0.2, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reinforce_finds_the_optimum_of_all_masks(tolerance, seed):
    model, batch = three_filters(), inputs()
    with torch.no_grad():
        target = model(batch)

    def loss_fn(candidate, x):
        return (candidate(x) - target).square().mean()

    earned = {}
    for kept in itertools.product([False, True], repeat=3):
        if any(kept):
            trial = three_filters()
            with torch.no_grad():
                trial[0].weight[~torch.tensor(kept)] = 0
                earned[kept] = reward(float(loss_fn(trial, batch)), tolerance, 3, sum(kept))
    best = max(earned, key=lambda kept: earned[kept])
    method = PruningAgents(tolerance=tolerance, episodes=60, seed=seed)
    masks = prune(model, method, Filter(), batches=[batch], loss_fn=loss_fn, layers=["0"])
    assert tuple(masks["0.weight"].keep.all(dim=1).tolist()) == best
    assert best == ((True, True, False) if tolerance < 1 else (False, True, False))


@pytest.mark.parametrize("pattern", [Filter(), Block(1, 2), Unstructured()], ids=str)
def test_a_sparsity_that_is_asked_for_is_exact_and_spends_it_on_what_matters(pattern):
    model, batch = three_filters(), inputs()
    with torch.no_grad():
        target = model(batch)
    masks = prune(
        model,
        PruningAgents(episodes=40),
        pattern,
        0.34,
        batches=[batch],
        loss_fn=lambda m, x: (m(x) - target).square().mean(),
        layers=["0"],
    )
    keep = masks["0.weight"].keep
    units = math.prod(pattern.grid((3, 4)))
    assert int(pattern.pool(keep.double()).gt(0).sum()) == units - math.floor(0.34 * units)
    assert not keep[2].any()


def test_probabilities_of_draws_are_those_of_the_definition():
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    free, counted = Agent(features, None, 0.1, 0), Agent(features, 2, 0.1, 0)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0])
    for agent in (free, counted):
        agent.own.data.copy_(logits)
    keep = torch.tensor([True, False, True, True])
    odds = torch.sigmoid(logits)
    assert float(free.log_probability(keep).detach()) == pytest.approx(
        float(torch.where(keep, odds, 1 - odds).log().sum())
    )
    weights = logits.exp()
    total = 0.0
    for order in itertools.permutations(range(4)):
        first, second = order[:2]
        expected = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        found = counted.log_probability(torch.tensor(order)).detach().exp()
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
        total += float(found) / 2  # the order of those that go does not count
    assert total == pytest.approx(1.0)


def test_draws_follow_the_probabilities():
    agent = Agent(torch.zeros(3, 3), 2, 0.1, 0)
    agent.own.data.copy_(torch.tensor([1.0, 0.0, -1.0]))
    drawn = [agent.draw(Unstructured()) for _ in range(2000)]
    for action, legal in drawn[:50]:
        assert legal.sum() == 1
        assert bool(legal[action[0]])
    shares = torch.stack([legal for _, legal in drawn]).double().mean(dim=0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0, -1.0]).softmax(dim=0).double(), atol=0.04, rtol=0)


def test_an_agent_sees_norms_and_sums_of_units():
    weight = torch.tensor([[1.0, -1.0], [2.0, 2.0]])
    assert torch.equal(features_of(weight, Filter()), torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    assert not features_of(torch.zeros(4, 2), Filter()).any()


def test_one_unit_stays_and_the_model_is_left_alone():
    model, batch = three_filters(), inputs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    method = PruningAgents(tolerance=1e9, evaluate=lambda m: 0.0, episodes=40)
    masks = prune(model, method, Filter(), batches=[batch])
    assert [int(mask.keep.any(dim=1).sum()) for mask in masks.values()] == [1, 1]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * masks[name].keep)
    again = prune(three_filters(), method, Filter(), batches=[batch])
    assert all(torch.equal(again[name].keep, masks[name].keep) for name in masks)


def test_later_layers_are_judged_behind_pruned_ones():
    model, zeros = three_filters(), []

    def evaluate(candidate):
        zeros.append(tuple(int((layer.weight == 0).sum()) for layer in candidate))
        return -float(candidate[1].weight.detach().abs().sum())

    prune(model, PruningAgents(evaluate=evaluate, episodes=2), Unstructured(), 0.4, batches=[inputs()])
    assert zeros[0] == (0, 1)  # dense: one weight is zero to begin with
    assert {first for first, _ in zeros[1:]} == {4}
    assert {second for first, second in zeros[-5:]} <= {1, 2}


@pytest.mark.parametrize(
    ("pattern", "loss", "message"),
    [
        (NM(2, 4), lambda m, x: m(x).sum(), r"learns how many units stay, and NM\(2, 4\) fixes that"),
        (Unstructured(), SampledOutput(), "the value of SampledOutput says nothing"),
        (Unstructured(), None, "loss_fn: PruningAgents"),
    ],
)
def test_nonsense_is_refused(pattern, loss, message):
    with pytest.raises(PruningError, match=message):
        prune(three_filters(), PruningAgents(), pattern, batches=[inputs()], loss_fn=loss)


def test_settings_are_checked():
    with pytest.raises(PruningError, match="PruningAgents: expected positive tolerance"):
        PruningAgents(tolerance=0.0)
