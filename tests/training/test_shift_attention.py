"""Shift attention: a softmax per kernel that ends as one weight."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.errors import PruningError
from tests.training.gated import attached, batch, explicit, gates_now, gradients_in_step, step

OPTIONS = {"kernel": True, "layers": ["0"]}


def attention_by_hand(scores, temperature):
    """The softmax over each kernel, by loops over kernels."""
    found = torch.empty_like(scores)
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            one = scores[i, j]
            found[i, j] = torch.exp(temperature * one / one.std()) / torch.exp(temperature * one / one.std()).sum()
    return found


@pytest.mark.parametrize("temperature", [0.15, 3.0])
def test_it_is_a_softmax_over_positions(temperature):
    scores = torch.rand(3, 2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sk.ShiftAttention().attention(scores, temperature)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(found, attention_by_hand(scores, temperature))


def test_equal_attentions_and_single_positions_have_finite_gradients():
    for shape in ((2, 2, 9), (2, 2, 1)):
        scores = torch.full(shape, 0.4, requires_grad=True)
        found = sk.ShiftAttention().attention(scores, 60.0)
        torch.testing.assert_close(found.detach(), torch.full(shape, 1 / shape[-1]))
        found.square().sum().backward()
        assert bool(torch.isfinite(scores.grad).all())


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_of_an_explicit_parametrisation(shared):
    method = sk.ShiftAttention(start=0.7, shared=shared)
    model, _, _, state = attached(method, **OPTIONS)

    def formula(weight, gates):
        scores = gates["attention"].expand(4, 2, 9)
        return weight * torch.softmax(0.7 * scores / scores.std(dim=-1, keepdim=True), dim=-1).reshape(weight.shape)

    wanted = explicit({"0.weight": formula}, {}, gates_now(state), kernel=True)["0.weight"]
    found = gradients_in_step(method, model, state, kernel=True)["0.weight"]
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1]["attention"], wanted[1]["attention"], rtol=1e-9, atol=1e-12)


def test_the_temperature_grows_by_the_same_factor_to_the_last_step():
    model, optimizer, _, state = attached(sk.ShiftAttention(0.5, 8.0), **OPTIONS)
    seen = []
    for _ in range(10):
        seen.append(state.numbers["temperature"])
        step(model, optimizer, kernel=True)
    torch.testing.assert_close(seen, [0.5 * 16 ** (i / 9) for i in range(10)])


@pytest.mark.parametrize("shared", [False, True])
def test_the_end_is_a_shift_of_inputs_and_a_product(shared):
    """One weight per kernel, where attention is largest; the convolution is a shift and a 1 x 1 convolution."""
    model, optimizer, run, state = attached(sk.ShiftAttention(shared=shared), **OPTIONS)
    for _ in range(9):
        step(model, optimizer, kernel=True)
    scores = state.sites[0].tensors["gate.attention"].clone().expand(4, 2, 9)
    latent = state.sites[0].tensors["latent"].clone()
    keep = run.finish()["0.weight"].keep
    assert bool((keep.flatten(2).sum(dim=2) == 1).all())
    assert torch.equal(keep.flatten(2).int().argmax(dim=2), scores.argmax(dim=2))
    weight = model[0].weight.detach()
    torch.testing.assert_close(weight, latent * keep)
    inputs, _ = batch(kernel=True)
    by_shifts = torch.zeros(16, 4, 2, 2, dtype=torch.float64)
    for i in range(4):
        for j in range(2):
            at = int(keep[i, j].flatten().int().argmax())
            row, column = divmod(at, 3)
            by_shifts[:, i] += weight[i, j, row, column] * inputs[:, j, row : row + 2, column : column + 2]
    torch.testing.assert_close(F.conv2d(inputs, weight), by_shifts)


def test_sharp_attention_is_the_kept_weight():
    model, _, run, state = attached(sk.ShiftAttention(1e6, 1e6), **OPTIONS)
    shown = model[0].weight.detach().clone()
    run.finish()
    torch.testing.assert_close(shown, model[0].weight.detach())
    assert math.isfinite(state.numbers["temperature"])


def test_a_kernel_of_one_position_keeps_it():
    model = nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    run = sk.attach(model, optimizer, sk.ShiftAttention(), steps=2)
    torch.testing.assert_close(model.weight.detach(), before)
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert run.finish()["weight"].sparsity == 0.0
    assert bool(torch.isfinite(model.weight).all())


def test_other_patterns_are_refused():
    with pytest.raises(PruningError, match="OnePerKernel"):
        attached(sk.ShiftAttention(), kernel=True, layers=["0"], pattern=sk.Unstructured(), sparsity=0.5)
    with pytest.raises(PruningError, match="stop"):
        sk.ShiftAttention(stop=0.0)
