"""Gradients in a step against torch's parametrizations and formulas written down a second time."""

import math

import pytest
import torch

import sparsekit as sk
from tests.training.gated import attached, explicit, gates_now, gradients_in_step


def spread_by_hand(pattern, shape, units):
    """Units over weights, by loops; 1 where no unit is."""
    found = torch.ones(shape, dtype=torch.float64)
    if isinstance(pattern, sk.Unstructured):
        return units.reshape(shape)
    if isinstance(pattern, sk.Filter):
        return found * units.reshape(-1, *[1] * (len(shape) - 1))
    rows, columns = pattern.rows, pattern.columns
    wide = shape[1] // columns
    for i in range(shape[0] // rows * rows):
        for j in range(wide * columns):
            found[i, j] = units[i // rows * wide + j // columns]
    return found


class Through(torch.autograd.Function):
    """A value with a slope of another: the straight-through estimate, by hand."""

    @staticmethod
    def forward(ctx, gate, hard):
        return hard

    @staticmethod
    def backward(ctx, slope):
        return slope, None


class Coarse(torch.autograd.Function):
    """AutoPrune's product ``w * h(v)`` with the gradients of the paper."""

    @staticmethod
    def forward(ctx, weight, v, slope):
        ctx.save_for_backward(weight, v, slope)
        return weight * (v > 0)

    @staticmethod
    def backward(ctx, grad):
        weight, v, slope = ctx.saved_tensors
        return grad * (v > 0), grad * weight.sign() * slope, None


def hard_concrete(u, log_alpha):
    s = 1 / (1 + torch.exp(-(torch.log(u) - torch.log1p(-u) + log_alpha) * 1.5))
    return torch.clamp(1.2 * s - 0.1, 0, 1)


def formula_and_cost(method, pattern, site):
    """What the method should be, written down a second time."""
    shape, noise = site.shape, {k[6:]: v.clone() for k, v in site.tensors.items() if k.startswith("noise.")}
    if isinstance(method, sk.TrainedGates):
        level = noise.get("g", torch.tensor(0.5))
        return (
            lambda w, g: w * spread_by_hand(pattern, shape, Through.apply(g["g"], (g["g"] > level).double())),
            lambda w, g: (method.l1 * (g["g"] - g["g"] ** 2) + method.l2 * g["g"]).sum(),
        )
    if isinstance(method, sk.L0HardConcrete):
        return (
            lambda w, g: w * spread_by_hand(pattern, shape, hard_concrete(noise["u"], g["log_alpha"])),
            lambda w, g: (
                spread_by_hand(pattern, shape, torch.sigmoid(g["log_alpha"] + 2 / 3 * math.log(11)))
                * (method.strength + method.decay / 2 * w**2)
            )[covered(pattern, shape)].sum(),
        )
    if isinstance(method, sk.AutoPrune):
        slopes = {
            "leaky_relu": lambda v: torch.where(v > 0, torch.ones_like(v), 0.1 * torch.ones_like(v)),
            "softplus": torch.sigmoid,
            "linear": torch.ones_like,
        }
        values = {
            "leaky_relu": lambda v: torch.where(v > 0, v, 0.1 * v),
            "softplus": lambda v: torch.log1p(torch.exp(v)),
            "linear": lambda v: v,
        }

        def product(w, g):
            v = spread_by_hand(pattern, shape, g["v"])
            return Coarse.apply(w, v, slopes[method.surrogate](v.detach()))

        return product, lambda w, g: method.strength * values[method.surrogate](g["v"]).sum()
    if isinstance(method, sk.ContinuousSparsification):
        at_start = 1 / (1 + math.exp(-method.s0))
        return (
            lambda w, g: w * spread_by_hand(pattern, shape, torch.sigmoid(g["s"]) / at_start),
            lambda w, g: method.strength * torch.sigmoid(g["s"]).sum(),
        )
    kept = (torch.sigmoid(spread_by_hand(pattern, shape, site.tensors["gate.s"])) > 0.48).double()  # 0.8 of the way
    return (
        lambda w, g: w * Through.apply(spread_by_hand(pattern, shape, g["s"]), kept),
        lambda w, g: 0.8 * 0.3 * torch.sigmoid(g["s"]).mean(),
    )


def covered(pattern, shape):
    if not isinstance(pattern, sk.Block):
        return torch.ones(shape, dtype=torch.bool)
    found = torch.zeros(shape, dtype=torch.bool)
    found[: shape[0] // pattern.rows * pattern.rows, : shape[1] // pattern.columns * pattern.columns] = True
    return found


METHODS = [
    sk.TrainedGates(l1=0.3, l2=0.2, start=0.7),
    sk.TrainedGates(l1=0.3, l2=0.2, start=0.7, sampled=False),
    sk.L0HardConcrete(strength=0.01, decay=0.1),
    sk.AutoPrune("leaky_relu", 0.1),
    sk.AutoPrune("softplus", 0.1),
    sk.AutoPrune("linear", 0.1),
    sk.ContinuousSparsification(s0=-0.3, strength=0.1),
    sk.MovementPruning(threshold=0.6, strength=0.3),
]


@pytest.mark.parametrize("pattern", [sk.Unstructured(), sk.Filter(), sk.Block(3, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_gradients_are_those_of_an_explicit_parametrisation(method, pattern):
    """The chain rule of the frame, the formula, the straight-through estimate and the cost, all in one."""
    model, _, _, state = attached(method, pattern=pattern)
    generator = torch.Generator().manual_seed(5)
    for site in state.sites:
        for key in [key for key in site.tensors if key.startswith("gate.")]:
            gate = site.tensors[key]
            jitter = torch.rand(gate.shape, generator=generator, dtype=gate.dtype) - 0.5
            gate.add_(0.5 * jitter)
    if isinstance(method, sk.MovementPruning):
        state.numbers["done"] = 0.8
    numbers = dict(state.numbers)
    with torch.no_grad():
        method.show(state)
    assert state.numbers == numbers
    made = {site.name: formula_and_cost(method, pattern, site) for site in state.sites}
    gates = gates_now(state)
    wanted = explicit({n: f for n, (f, _) in made.items()}, {n: c for n, (_, c) in made.items()}, gates)
    found = gradients_in_step(method, model, state)
    for name in wanted:
        torch.testing.assert_close(found[name][0], wanted[name][0], rtol=1e-12, atol=1e-14)
        for key in wanted[name][1]:
            torch.testing.assert_close(found[name][1][key], wanted[name][1][key], rtol=1e-12, atol=1e-14)
