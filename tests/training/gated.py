"""What tests of gated methods share: a small run in float64, and the same step by an explicit parametrised module."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import sparsekit as sk


def network(dtype=torch.float64, kernel=False):
    torch.manual_seed(0)
    if kernel:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


def batch(kernel=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shape = (16, 2, 4, 4) if kernel else (16, 6)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.arange(16) % 3


def loss_of(model, kernel=False):
    inputs, labels = batch(kernel)
    return F.cross_entropy(model(inputs), labels)


def attached(method, kernel=False, rate=0.1, momentum=0.0, **options):
    """A model in float64, its optimizer, a run of the method, and the state that the run is made of."""
    model = network(kernel=kernel)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    options = {"steps": 10, **options}
    run = sk.attach(model, optimizer, method, **options)
    return model, optimizer, run, run._state


def step(model, optimizer, kernel=False):
    optimizer.zero_grad()
    loss_of(model, kernel).backward()
    optimizer.step()


class Parametrised(nn.Module):
    """``formula(weight, gates)`` as a parametrization, gates being its own parameters."""

    def __init__(self, formula, gates):
        super().__init__()
        self.formula = formula
        self.gates = nn.ParameterDict({name: nn.Parameter(gate.clone()) for name, gate in gates.items()})

    def forward(self, weight):
        return self.formula(weight, dict(self.gates))


def explicit(formulas, costs, gates, kernel=False):
    """Gradients ``{parameter: (weight, {gate: slope})}`` of loss plus costs, by torch's own parametrizations.

    Args:
        formulas, costs: by parameter name, each of ``(weight, gates)``; a cost may be None.
        gates: by parameter name, the gates to start from.
    """
    model = network(kernel=kernel)
    parts = {}
    for name, formula in formulas.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        part = Parametrised(formula, gates[name])
        parametrize.register_parametrization(layer, "weight", part, unsafe=True)
        parts[name] = (layer.parametrizations["weight"].original, part)
    loss = loss_of(model, kernel)
    for name, cost in costs.items():
        if cost is not None:
            loss = loss + cost(parts[name][0], dict(parts[name][1].gates))
    loss.backward()
    return {
        name: (weight.grad, {key: gate.grad for key, gate in part.gates.items()})
        for name, (weight, part) in parts.items()
    }


def gates_now(state):
    """Copies of all gates, by parameter name and their own."""
    return {
        site.name: {
            key.removeprefix("gate."): value.clone() for key, value in site.tensors.items() if key.startswith("gate.")
        }
        for site in state.sites
    }


def gradients_in_step(method, model, state, kernel=False):
    """What the run makes of the gradient of one backward pass, in the form of :func:`explicit`."""
    model.zero_grad()
    loss_of(model, kernel).backward()
    with torch.no_grad():
        method.before_step(state)
    found = {}
    for site in state.sites:
        slopes = {key.removeprefix("gate."): v.grad for key, v in site.tensors.items() if key.startswith("gate.")}
        found[site.name] = (site.gradient().clone(), slopes)
    return found
