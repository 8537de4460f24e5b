import pytest
import torch
from torch import nn

import sparsekit as sk


def linear_network(depth=4, width=24, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)])


def pruned(model, sparsity=0.5):
    return sk.prune(model, sk.Random(), sparsity=sparsity)


def penalty_of(matrix):
    """Of ``(in, out)``, by the definition."""
    return float(torch.linalg.matrix_norm(matrix.T @ matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype)))


def test_the_penalty_falls_and_the_support_stays():
    model = linear_network()
    masks = pruned(model)
    before = sum(penalty_of(layer.weight.detach().T) for layer in model)
    parameters = list(model.parameters())
    found = sk.isometry_(model, masks)
    after = sum(penalty_of(layer.weight.detach().T) for layer in model)
    assert found.before == pytest.approx(before)
    assert found.after == pytest.approx(after)
    assert after < before / 20
    for parameter, same, mask in zip(model.parameters(), parameters, masks.values()):
        assert parameter is same
        assert torch.equal(parameter != 0, mask.keep)


def test_singular_values_of_the_jacobian_gather_around_1():
    def singular(model):
        jacobian = torch.eye(24, dtype=torch.float64)
        for layer in model:
            jacobian = layer.weight.detach() @ jacobian
        return torch.linalg.svdvals(jacobian)

    model = linear_network()
    masks = pruned(model)
    before = singular(model)
    sk.isometry_(model, masks)
    after = singular(model)
    assert float((after - 1).abs().max()) < 0.1 < float((before - 1).abs().max())


def test_an_orthogonal_weight_has_nothing_to_gain():
    model = nn.Linear(8, 6, bias=False, dtype=torch.float64)
    nn.init.orthogonal_(model.weight)
    before = model.weight.detach().clone()
    found = sk.isometry_(model, {"weight": torch.ones(6, 8, dtype=torch.bool)})
    assert found.before < 1e-13
    assert found.after <= found.before
    torch.testing.assert_close(model.weight.detach(), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_group_by_group(groups):
    torch.manual_seed(0)
    model = nn.Conv2d(4, 6, 3, groups=groups)
    bias = model.bias.detach().clone()
    masks = pruned(model, 0.3)
    parts = model.weight.detach().double().permute(2, 3, 1, 0).reshape(-1, 6)  # (kernel and inputs, out)
    before = sum(penalty_of(part) ** 2 for part in parts.chunk(groups, dim=1)) ** 0.5
    found = sk.isometry_(model, masks)
    assert found.before == pytest.approx(before, rel=1e-5)
    assert found.after < 1e-3 * before
    assert torch.equal(model.weight != 0, masks["weight"].keep)
    assert torch.equal(model.bias, bias)


def test_the_first_step_is_down_the_gradient_of_autograd():
    model = nn.Linear(5, 4, bias=False, dtype=torch.float64)
    keep = torch.rand(4, 5) > 0.3
    matrix = (model.weight.detach() * keep).T.requires_grad_()
    norm = torch.linalg.matrix_norm((matrix * keep.T).T @ (matrix * keep.T) - torch.eye(4, dtype=torch.float64))
    (slope,) = torch.autograd.grad(norm, matrix)
    wanted = (matrix - 1e-3 * slope).T.detach()
    sk.isometry_(model, {"weight": keep}, steps=1, lr=1e-3)
    torch.testing.assert_close(model.weight.detach(), wanted)


def test_more_outputs_than_inputs_never_gets_worse():
    model = nn.Linear(3, 9, bias=False)
    found = sk.isometry_(model, {"weight": torch.ones(9, 3, dtype=torch.bool)})
    assert 6**0.5 <= found.after <= found.before  # at best three of nine singular values are 1
    assert found.after == pytest.approx(6**0.5, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model = nn.Linear(8, 8).to(dtype)
    found = sk.isometry_(model, pruned(model))
    assert found.after < found.before
    assert model.weight.dtype == dtype


def test_other_layers_and_other_gradients_are_left_alone():
    model = linear_network(depth=2)
    other = model[1].weight.detach().clone()
    masks = pruned(model)
    del masks["1.weight"]
    model[0].weight.grad = torch.ones(24, 24, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.copy_(other)
    sk.isometry_(model, masks)
    assert torch.equal(model[1].weight, other)
    assert model[0].weight.requires_grad
    assert (model[0].weight.grad == 1).all()
    assert sk.isometry_(model, {}).after == 0


@pytest.mark.parametrize(
    ("masks", "error", "words"),
    [
        ({"7.weight": torch.ones(24, 24, dtype=torch.bool)}, sk.LayerError, "'7'"),
        ({"0.bias": torch.ones(24, dtype=torch.bool)}, sk.LayerError, r"'0\.bias'"),
        ({"1.weight": torch.ones(3, 3, dtype=torch.bool)}, sk.MaskError, r"1\.weight: .*\(24, 24\), got \(3, 3\)"),
        ({"1.weight": torch.ones(24, 24)}, sk.MaskError, "bool"),
    ],
)
def test_errors_leave_the_model(masks, error, words):
    model = linear_network(depth=2)
    before = [value.detach().clone() for value in model.parameters()]
    with pytest.raises(error, match=words):
        sk.isometry_(model, {"0.weight": torch.ones(24, 24, dtype=torch.bool), **masks})
    assert all(torch.equal(value, old) for value, old in zip(model.parameters(), before))


@pytest.mark.parametrize("settings", [{"steps": -1}, {"lr": 0.0}])
def test_settings(settings):
    with pytest.raises(sk.PruningError, match="steps >= 0 and lr > 0"):
        sk.isometry_(linear_network(), {}, **settings)
