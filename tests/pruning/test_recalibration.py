import copy

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.errors import CalibrationError, LayerError


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, momentum=0.3),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
    )
    for norm in (model[1], model[5]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return model


def batches(*sizes):
    torch.manual_seed(1)
    return [torch.randn(size, 3, 5, 5) * (1 + index) + index for index, size in enumerate(sizes)]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_equals_the_moments_of_all_batches_together():
    model, data = network(), batches(4, 7, 2)
    sk.recalibrate_batchnorm(model, (x for x in data))
    seen = model[0](torch.cat(data)).double()
    torch.testing.assert_close(model[1].running_mean.double(), seen.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), seen.var(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    second = []
    for x in data:  # what lies behind sees each batch normalised by itself
        y = model[0](x)
        mean, var = y.mean(dim=(0, 2, 3), keepdim=True), y.var(dim=(0, 2, 3), correction=0, keepdim=True)
        y = (y - mean) / (var + 1e-5).sqrt() * model[1].weight[:, None, None] + model[1].bias[:, None, None]
        second.append(model[4](y.relu()))
    seen = torch.cat(second).double()
    torch.testing.assert_close(model[5].running_mean.double(), seen.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[5].running_var.double(), seen.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_one_batch_is_what_torch_does_with_a_cumulative_average():
    model, (x,) = network().eval(), batches(16)
    twin = copy.deepcopy(model)
    sk.recalibrate_batchnorm(model, [x])
    for norm in (twin[1], twin[5]):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        twin(x)
    for index in (1, 5):
        torch.testing.assert_close(model[index].running_mean, twin[index].running_mean)
        torch.testing.assert_close(model[index].running_var, twin[index].running_var)


def test_nothing_else_changes():
    model = network()
    model[2].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    data = batches(4, 4)
    generator = torch.get_rng_state()
    sk.recalibrate_batchnorm(model, data)
    assert torch.equal(torch.get_rng_state(), generator)  # no dropout
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    assert not any(module._forward_pre_hooks for module in model.modules())
    first = state(model)
    sk.recalibrate_batchnorm(model, data)  # where it stood before does not matter
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "batches: expected at least one, got an empty list"),
        (torch.randn(2, 3, 5, 5), "batches: expected a list or another iterable, got one Tensor"),
        ([*batches(4), torch.randn(2, 2)], r"batches\[1\]: expected what the model takes.*\(2, 2\)"),
        ([torch.full((2, 3, 5, 5), float("nan"))], "1: expected finite inputs of this BatchNorm"),
        ([torch.randn(1, 3, 5, 5)], r"batches\[0\].*Expected more than 1 value per channel"),
    ],
)
def test_bad_batches(data, message):
    model = network()
    before, modes = state(model), [module.training for module in model.modules()]
    with pytest.raises(CalibrationError, match=message):
        sk.recalibrate_batchnorm(model, data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_models_without_and_batchnorms_that_are_not_reached():
    for model in (nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)):
        with pytest.raises(LayerError, match="expected a BatchNorm with running averages, got none"):
            sk.recalibrate_batchnorm(model, [torch.randn(3, 2)])
    model = nn.Linear(2, 2)
    model.unused = nn.BatchNorm1d(2)
    with pytest.raises(CalibrationError, match="unused: expected batches that reach this BatchNorm, got 1 that do not"):
        sk.recalibrate_batchnorm(model, [torch.randn(3, 2)])
