import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.patterns import NM, Channel, Filter, Unstructured
from sparsekit.pruning import AMC, ModelProblem, SampledOutput, Wanda, prune
from sparsekit.pruning.searches.costs import Wall, layer_shapes, least_squares, walled
from sparsekit.pruning.searches.ddpg import DDPG, Learner
from sparsekit.pruning.targets import find_targets

LAYERS = st.lists(st.tuples(st.integers(2, 40), st.floats(0.01, 100.0)), min_size=1, max_size=6)


@given(LAYERS, st.floats(0.0, 0.95), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_the_agent_does_the_budget_is_met_and_used_up(layers, sparsity, data):
    units, costs = zip(*layers)
    try:
        wall = walled(units, costs, 1 - sparsity, None)
    except PruningError:
        share = min(0.2, 0.5 * (1 - sparsity))  # what a layer keeps at the least, in whole units
        least = sum(max(1, math.ceil(share * u - 1e-6)) * c for u, c in layers)
        assert least > (1 - sparsity) * sum(u * c for u, c in layers)
        return
    spent = 0.0
    for layer, cost in enumerate(costs):
        kept = wall.kept(layer, spent, data.draw(st.floats(0.0, 1.0)))
        assert wall.least[layer] <= kept <= units[layer]
        spent += kept * cost
    assert spent <= wall.budget * (1 + 1e-6)
    assert spent > wall.budget - max(costs) * (1 + 1e-6)


def test_the_wall_has_its_closed_form():
    wall = Wall(units=[10, 20, 5], unit_costs=[3.0, 1.0, 4.0], least=[2, 4, 1], budget=40.0)
    assert wall.bounds(0, 0.0)[1] == math.floor((40 - 4 * 1 - 1 * 4) / 3)
    assert wall.bounds(0, 0.0)[0] == 2  # (40 - 20 - 20) / 3 is nothing
    assert wall.bounds(1, 15.0) == (math.floor((40 - 15 - 20) / 1), 20)  # 21 would still be within the budget
    assert wall.bounds(2, 15.0 + 20.0) == (1, 1)
    assert wall.kept(0, 0.0, 0.5) == 5
    assert wall.kept(0, 0.0, 1.0) == 10
    assert Wall([10, 20, 5], [3.0, 1.0, 4.0], [2, 4, 1], 30.0).kept(0, 0.0, 1.0) == 7
    free = Wall([10, 20, 5], [3.0, 1.0, 4.0], [2, 4, 1], 70.0, spends=False)
    assert free.bounds(0, 0.0) == (2, 10)
    assert Wall([10, 20, 5], [3.0, 1.0, 4.0], [2, 4, 1], 70.0).bounds(0, 0.0) == (10, 10)


def test_a_budget_that_cannot_be_met_is_refused():
    with pytest.raises(PruningError, match=r"sparsity: expected at most 0.5000, since every layer keeps .* got 0.9000"):
        walled([2, 2], [1.0, 1.0], 0.1, None)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(32, 6),
    )


def loss_fn(model, batch):
    return F.cross_entropy(model(batch), batch.flatten(1).sum(dim=1).gt(0).long())


def data():
    torch.manual_seed(1)
    return [torch.randn(16, 2, 8, 8)]


def test_multiplications_are_counted_by_hand():
    model = network()
    problem = ModelProblem(model, find_targets(model), data(), loss_fn)
    shapes = layer_shapes(problem)
    assert [shape.products for shape in shapes.values()] == [
        16 * 4 * 4 * 8 * 2 * 9,
        16 * 2 * 2 * 8 * 4 * 9,
        16 * 6 * 32,
    ]
    first = shapes["0.weight"]
    assert (first.outputs, first.inputs, first.height, first.width, first.stride, first.kernel) == (8, 2, 8, 8, 2, 3)


@pytest.mark.parametrize("pattern", [Filter(), Channel(), Unstructured()], ids=str)
@pytest.mark.parametrize("costs", [None, {"0.weight": 3.0, "3.weight": 1.0, "5.weight": 2.0}])
def test_the_cost_of_what_stays_is_the_budget_to_within_a_unit(pattern, costs):
    model = network()
    products = {name: s.products for name, s in layer_shapes(ModelProblem(model, find_targets(model), data())).items()}
    masks = prune(model, AMC(costs=costs, episodes=8), pattern, 0.5, batches=data(), loss_fn=loss_fn)
    cost = costs or products
    kept = sum(cost[name] * mask.nnz / mask.keep.numel() for name, mask in masks.items())
    per_unit = [cost[name] / math.prod(pattern.grid(tuple(mask.shape))) for name, mask in masks.items()]
    assert 0.5 * sum(cost.values()) - max(per_unit) < kept <= 0.5 * sum(cost.values()) * (1 + 1e-9)
    for name, mask in masks.items():  # the lowest L1 norms went
        size = pattern.pool(network().get_parameter(name).detach().abs())
        stays = pattern.pool(mask.keep.double()) > 0
        assert stays.all() or size[stays].min() >= size[~stays].max()


def planted():
    """The hidden block 0 does not reach the output; blocks 1 and 2 do."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.useless, self.one, self.two = (nn.Linear(12, 12, bias=False) for _ in range(3))

        def forward(self, x):
            return self.two(torch.tanh(self.one(x))) + 0.0 * self.useless(x)

    return Net()


def test_a_useless_layer_is_pruned_most():
    model = planted()
    inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(inputs)
    masks = prune(
        model,
        AMC(episodes=40),
        sparsity=0.3,
        batches=[inputs],
        loss_fn=lambda m, x: (m(x) - expected).square().mean(),
    )
    assert masks["useless.weight"].sparsity > 0.7
    assert max(masks["one.weight"].sparsity, masks["two.weight"].sparsity) < 0.15


def test_evaluate_replaces_the_loss_and_may_train_the_model():
    model = planted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []

    def evaluate(candidate):
        optimizer = torch.optim.SGD(candidate.parameters(), lr=0.1)
        candidate.train()(torch.randn(4, 12)).square().sum().backward()
        optimizer.step()
        seen.append({name: value.clone() for name, value in candidate.state_dict().items()})
        return -float(candidate.two.weight.detach().abs().sum())

    state = torch.get_rng_state()
    masks = prune(model, AMC(evaluate=evaluate, episodes=6), sparsity=0.5, batches=[torch.zeros(1, 12)])
    assert torch.equal(torch.get_rng_state(), state)
    assert len(seen) > 1
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * masks[name].keep)


def test_an_error_leaves_the_model_as_it_was():
    model, calls = network(), itertools.count()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def evaluate(candidate):
        candidate.train()(data()[0])
        return math.nan if next(calls) == 3 else 0.0

    def broken(candidate):
        raise KeyError("x")

    for judge, message in ((evaluate, "expected a finite number, got nan"), (broken, "it raised KeyError: 'x'")):
        with pytest.raises(CalibrationError, match=message):
            prune(model, AMC(evaluate=judge, episodes=30), sparsity=0.5, batches=data())
    with pytest.raises(CalibrationError, match=r"batches\[0\]: expected what the model takes, got float32 \(2, 3\)"):
        prune(model, AMC(evaluate=judge), sparsity=0.5, batches=[torch.zeros(2, 3)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_same_seed_same_masks_whatever_the_global_generator():
    found = []
    for seed, method in ((1, AMC(episodes=20)), (2, AMC(episodes=20)), (1, AMC(episodes=20, seed=5, warmup=20))):
        model, batches = network(), data()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(prune(model, method, Filter(), 0.5, batches=batches, loss_fn=loss_fn))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found[0][name].keep, found[1][name].keep) for name in found[0])


def test_without_a_sparsity_the_reward_says_how_much_goes():
    model = planted()
    inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(inputs)
    masks = prune(
        model,
        AMC(reward="error_cost", evaluate=lambda m: 1 - float((m(inputs) - expected).square().mean().detach())),
        batches=[inputs],
    )
    assert 0 < sum(mask.sparsity for mask in masks.values()) < 3
    with pytest.raises(ValueError, match="does not fix its own sparsity"):
        prune(model, AMC(), batches=[inputs], loss_fn=lambda m, x: m(x).square().mean())


@pytest.mark.parametrize("groups", [1, 2])
def test_reconstruction_is_lstsq_on_the_support(groups):
    torch.manual_seed(0)
    inputs = torch.randn(groups, 50, 6, dtype=torch.float64)
    inputs[:, :, 5] = inputs[:, :, 4]  # rank-deficient
    weight = torch.randn(4, 6, dtype=torch.float64)
    keep = torch.rand(4, 6) < 0.6
    found = least_squares(weight, keep, inputs.transpose(1, 2) @ inputs)
    for row in range(4):
        rows = inputs[row * groups // 4]
        support = keep[row]
        expected = torch.linalg.lstsq(rows[:, support], rows @ weight[row], driver="gelsd").solution
        torch.testing.assert_close(found[row, support], expected)
        assert not found[row, ~support].any()


def test_a_reconstructed_network_is_closer_to_the_dense_one():
    torch.manual_seed(0)
    inputs = torch.randn(200, 4) @ torch.randn(4, 16) + 0.1 * torch.randn(200, 16)
    errors = []
    for reconstruct in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(16, 8))
        with torch.no_grad():
            dense = model(inputs)
        prune(
            model,
            AMC(reconstruct=reconstruct, episodes=4),
            Channel(),
            0.5,
            batches=[inputs],
            loss_fn=lambda m, x: m(x).square().mean(),
        )
        with torch.no_grad():
            errors.append(float((model(inputs) - dense).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_the_agent_learns_which_action_pays():
    agent = DDPG(2, 500, Learner(hidden=32, noise=0.5, learning_rate=1e-3), seed=0)
    states = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])]
    for _ in range(80):
        actions = [agent.act(state) for state in states]
        agent.remember(states, actions, -((actions[0] - 0.9) ** 2) - (actions[1] - 0.1) ** 2)
        agent.learn(2)
    agent.noise = 1e-3
    first, second = (agent.act(state) for state in states)
    assert first > second + 0.2


@pytest.mark.parametrize(
    ("method", "pattern", "loss", "message"),
    [
        (AMC(), NM(2, 4), loss_fn, r"chooses how many units stay, and NM\(2, 4\) fixes that"),
        (AMC(criterion=Wanda()), Unstructured(), loss_fn, "compare within a row only"),
        (AMC(), Unstructured(), SampledOutput(), "the value of SampledOutput says nothing"),
        (AMC(), Unstructured(), None, "loss_fn: AMC"),
        (
            AMC(costs={"0.weight": 1.0}),
            Unstructured(),
            loss_fn,
            "costs: expected a positive number for 3.weight, got None",
        ),
        (AMC(lower=0.9), Filter(), loss_fn, "sparsity: expected at most"),
    ],
)
def test_nonsense_is_refused(method, pattern, loss, message):
    with pytest.raises(PruningError, match=message):
        prune(network(), method, pattern, None if pattern.fixes_sparsity else 0.5, batches=data(), loss_fn=loss)


@pytest.mark.parametrize("settings", [{"reward": "x"}, {"episodes": 0}, {"lower": 1.0}])
def test_settings_are_checked(settings):
    with pytest.raises(PruningError, match="AMC: expected"):
        AMC(**settings)
