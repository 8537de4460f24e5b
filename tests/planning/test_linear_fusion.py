"""Activations that a plan gives to the linear layer before them."""

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.nn import SparseLinear
from sparsekit.planning import compile, plan
from sparsekit.planning.fusion import Fusion, find_fusions

X = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """Two layers; ``flow`` says what lies between."""

    def __init__(self, act, flow=lambda model, hidden: model.act(hidden)):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.act, self.down, self.flow = nn.Linear(20, 32), act, nn.Linear(32, 8), flow

    def forward(self, x):
        return self.down(self.flow(self, self.up(x)))


ACTS = [(nn.ReLU(), "relu"), (nn.SiLU(), "silu"), (nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh")]


@pytest.mark.parametrize(("act", "kind"), ACTS, ids=str)
def test_the_layer_takes_the_activation_over(measured, tmp_path, act, kind):
    model = Model(act).eval()
    assert find_fusions(model, X) == (Fusion("up", None, "act", kind),)
    sk.prune(model, sk.Magnitude(), sparsity=0.9)
    fast = compile(model, X)
    assert isinstance(fast.up, SparseLinear)
    assert (fast.up.activation, fast.up.absorbed, fast.down.activation) == (kind, ("act",), "none")
    assert isinstance(fast.act, nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), model(X))
    assert plan(model, X).as_json()["layers"][0]["fused"] == ["act"]
    sk.save(fast, tmp_path / "m")
    for into in (model, fast):
        loaded = sk.load(tmp_path / "m", into=into)
        with torch.no_grad():
            assert torch.equal(loaded(X), fast(X))


@pytest.mark.parametrize(
    ("act", "flow"),
    [
        (nn.Tanh(), lambda model, hidden: model.act(hidden)),
        (nn.GELU(), lambda model, hidden: model.act(hidden) + hidden),
        (nn.GELU(), lambda model, hidden: model.act(hidden + 1)),
        (nn.GELU(), lambda model, hidden: model.act(model.act(hidden))),
        (nn.ReLU(), lambda model, hidden: torch.relu(hidden)),
    ],
)
def test_what_something_else_reads_stays(act, flow):
    assert find_fusions(Model(act, flow), X) == ()


def test_a_layer_that_stays_keeps_its_activation(measured):
    fast = compile(Model(nn.GELU()), X)
    assert isinstance(fast.up, nn.Linear)
    assert isinstance(fast.act, nn.GELU)


def test_the_activation_is_part_of_what_is_measured(measured):
    jobs = measured[1]
    plan(Model(nn.GELU()), X)
    assert [job.activation for job in jobs] == ["gelu", "none"]
    assert " gelu " in jobs[0].key
    calls = jobs[0].calls(jobs[0].example())
    results = [call() for call in calls.values()]
    assert len(results) > 1
    for result in results:
        torch.testing.assert_close(result, results[0])
    assert float(results[0].detach().min()) > -0.2
