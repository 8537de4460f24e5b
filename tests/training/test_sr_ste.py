"""SR-STE against a straight-through function written by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsekit as sk


class Masked(torch.autograd.Function):
    """The two largest of four in; out come the gradient of all, and the decay of those that went."""

    @staticmethod
    def forward(ctx, weight, decay):
        groups = weight.reshape(-1, 4)
        keep = torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.abs().topk(2, dim=1).indices, True)
        keep = keep.reshape(weight.shape)
        ctx.save_for_backward(weight, keep)
        ctx.decay = decay
        return weight * keep

    @staticmethod
    def backward(ctx, slope):
        weight, keep = ctx.saved_tensors
        return slope + ctx.decay * (weight * ~keep), None


LAYERS = [nn.Linear(12, 8), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(8, 6, 1)]


def inputs_of(layer):
    generator = torch.Generator().manual_seed(1)
    shape = (16, 12) if isinstance(layer, nn.Linear) else (4, layer.in_channels, 5, 5)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS, ids=["linear", "conv3", "conv1"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("make", [lambda w: torch.optim.SGD(w, 0.1, 0.9, weight_decay=1e-2), torch.optim.Adam])
def test_every_step_is_that_of_the_function(layer, decay, make):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        layer.weight.normal_()
    dense = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    optimizer, other = make(layer.parameters()), make([dense, bias])
    run = sk.attach(layer, optimizer, sk.SRSTE(decay=decay), steps=100)
    inputs = inputs_of(layer)
    for _ in range(8):
        optimizer.zero_grad()
        other.zero_grad()
        (layer(inputs).sin().mean() + layer(inputs).square().mean()).backward()
        weight = Masked.apply(dense, decay)
        made = (
            F.linear(inputs, weight, bias)
            if dense.dim() == 2
            else F.conv2d(inputs, weight, bias, padding=layer.padding)
        )
        assert torch.allclose(layer.weight, weight, rtol=0, atol=1e-12)
        (made.sin().mean() + made.square().mean()).backward()
        optimizer.step()
        other.step()
        assert torch.allclose(layer.weight, Masked.apply(dense, 0.0), rtol=0, atol=1e-12)
    assert torch.equal(run.finish()["weight"].keep, layer.weight != 0)


def test_the_gradient_is_taken_at_the_masked_weight_and_pruned_weights_decay():
    """One step of SGD by the closed form: kept weights move by g, pruned ones by g + decay * w."""
    layer = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 2.0, 1.0, -0.5]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    run = sk.attach(layer, optimizer, sk.SRSTE(decay=0.4), steps=9)
    site = run._state.sites[0]
    inputs = torch.tensor([[1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    (0.5 * layer(inputs).square()).sum().backward()
    optimizer.step()
    output = 3.0 + 2.0  # without the pruned ones
    wanted = [3.0 - 0.1 * output, 2.0 - 0.1 * output, 1.0 - 0.1 * (output + 0.4), -0.5 - 0.1 * (output - 0.4 * 0.5)]
    kept = [2.5, 1.5, 0.0, 0.0]
    assert wanted[:2] == kept[:2]
    assert site.tensors["latent"].flatten().tolist() == pytest.approx(wanted, abs=1e-12)
    assert layer.weight.detach().flatten().tolist() == pytest.approx(kept, abs=1e-12)
    assert run.masks["weight"].nnz == 2


def test_a_convolution_is_grouped_as_its_pattern_says():
    """``NM`` groups the matrix view: along channels where a kernel is one weight, else along kernel positions first."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sk.attach(layer, optimizer, sk.SRSTE(), steps=9)
    assert (layer.weight.flatten(1).reshape(-1, 4) != 0).sum(1).eq(2).all()


def test_a_negative_decay_is_refused():
    with pytest.raises(sk.PruningError, match="decay: expected at least 0, got -1"):
        sk.SRSTE(decay=-1.0)
