"""A run: where it acts, what it leaves behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparsekit as sk


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 20, generator=generator), torch.randn(64, 16, generator=generator)


def train(model, optimizer, run, steps):
    inputs, targets = data()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean() + run.penalty()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("method", [sk.GradualPruning(), sk.SelectiveWeightDecay()])
def test_the_loop_of_the_readme_prunes_and_leaves_nothing(method):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    run = sk.attach(model, optimizer, method, sparsity=0.75, steps=20)
    train(model, optimizer, run, 20)
    masks = run.finish()
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask.keep].any()
    assert sum(mask.nnz for mask in masks.values()) == (20 * 32 + 32 * 16) // 4
    assert pickle.loads(pickle.dumps(model)) is not model
    assert not copy.deepcopy(optimizer)._optimizer_step_pre_hooks


def test_sr_ste_keeps_two_of_four():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    run = sk.attach(model, optimizer, sk.SRSTE(), steps=5)
    train(model, optimizer, run, 5)
    assert all(mask.pattern == sk.NM(2, 4) and mask.sparsity == 0.5 for mask in run.finish().values())


def test_large_gradients_are_finite():
    """The sum of these is not, in the precision that they come in."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    run = sk.attach(model, optimizer, sk.GradualPruning(), sparsity=0.5, steps=2)
    model.weight.grad = torch.full((4, 4), 3e38)
    optimizer.step()
    assert run.stopped is None


def test_an_optimizer_that_was_loaded_before_attach_forgets_nothing():
    """The first masks clear what it remembers of the weights they remove, which are not those of the saved masks."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    data_x, data_y = data()
    (model(data_x) - data_y).square().mean().backward()
    optimizer.step()
    before = {name: optimizer.state[value]["momentum_buffer"].clone() for name, value in model.named_parameters()}
    saved = sk.attach(model, optimizer, sk.GradualPruning(), sparsity=0.5, steps=4).state_dict()
    other = copy.deepcopy(model)
    again = torch.optim.SGD(other.parameters(), lr=1e-2, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    run = sk.attach(other, again, sk.GradualPruning(), sparsity=0.5, steps=4)
    for site in run._state.sites:
        site.hold(torch.zeros_like(site.keep), again)
    run.load_state_dict(saved)
    for name, value in other.named_parameters():
        assert torch.equal(again.state[value]["momentum_buffer"], before[name])


def test_a_saved_run_stays_as_it_was_while_gates_train_on():
    class Gated(sk.SRSTE):
        learning_rate = 1e-2

        def gates(self, state, site, weight):
            return {"size": torch.ones(())}

        def effective(self, state, site, weight, gates):
            return weight * gates["size"]

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    run = sk.attach(model, optimizer, Gated(), steps=9)
    train(model, optimizer, run, 3)
    saved = run.state_dict()
    first = copy.deepcopy(saved["gate_optimizer"])
    train(model, optimizer, run, 1)
    run.load_state_dict(saved)
    train(model, optimizer, run, 1)
    for index, values in first["state"].items():
        for name, value in values.items():
            assert torch.equal(saved["gate_optimizer"]["state"][index][name], value)


class Restless(torch.optim.SGD):
    """Moves every weight, whatever its gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for value in group["params"]:
                value.add_(0.01)
        return super().step(closure)


def test_an_optimizer_that_moves_all_weights_moves_no_removed_one():
    model = network()
    optimizer = Restless(model.parameters(), lr=1e-2)
    run = sk.attach(model, optimizer, sk.GradualPruning(), sparsity=0.5, steps=4)
    train(model, optimizer, run, 6)
    assert all(not model.get_parameter(name)[~mask.keep].any() for name, mask in run.finish().items())


def test_a_method_s_own_pattern_takes_the_layers_it_is_made_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = sk.attach(model, optimizer, sk.ShiftAttention(), steps=4)
    assert list(run.finish()) == ["0.weight"]
    with pytest.raises(sk.PatternError, match=r"2\.weight"):
        sk.attach(model, optimizer, sk.ShiftAttention(), pattern=sk.OnePerKernel(), steps=4)


def test_the_history_tells_zeros_and_not_plans():
    """A penalty has chosen what goes from the start, and removes it in the end."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    run = sk.attach(model, optimizer, sk.GReg1(), sparsity=0.75, steps=10)
    train(model, optimizer, run, 10)
    found = [value for _, value in run.history.series("sparsity", "0.weight")]
    assert (found[0], found[3], found[-1]) == (0.0, 0.0, 0.75)
    assert run.masks["0.weight"].sparsity == 0.75
