import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError
from sparsekit.patterns import Filter
from sparsekit.pruning import BatchNormScale, Global, ModelView, NormScale, prune
from sparsekit.pruning.targets import find_targets


class Net(nn.Module):
    """BatchNorms are registered in another order than they are used in."""

    def __init__(self):
        super().__init__()
        self.norm_b, self.norm_a = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        for norm in (self.norm_a, self.norm_b, self.norm):
            nn.init.normal_(norm.weight)

    def forward(self, x):
        x = F.relu(self.norm_a(self.a(x)))
        x = x + self.norm_b(self.b(x))
        return self.norm(self.head(x.mean(dim=(2, 3))))


def net():
    torch.manual_seed(0)
    return Net()


def scales(model, x, layers=None):
    found = NormScale.collect(ModelView(model, find_targets(model, layers), [x]))
    return {name: statistic.scale for name, statistic in found.items()}


X = torch.ones(2, 3, 5, 5)


def test_the_computation_says_which_batchnorm_follows():
    model = net()
    found = scales(model, X)
    for layer, norm in (("a", model.norm_a), ("b", model.norm_b), ("head", model.norm)):
        assert torch.equal(found[f"{layer}.weight"], norm.weight.detach().abs())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_threshold_is_a_quantile_of_all_scales(share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight)
    gammas = torch.cat([model[1].weight, model[4].weight]).detach().abs()
    masks = prune(model, BatchNormScale(), Filter(), share, allocation=Global(), batches=[torch.randn(4, 8)])
    kept = torch.cat([mask.keep[:, 0] for mask in masks.values()])
    assert torch.equal(kept, gammas > gammas.quantile(share))


def test_filters_of_different_sizes_compare():
    model = net()
    norms = (model.norm_a, model.norm_b, model.norm)
    gammas = torch.cat([norm.weight for norm in norms]).detach().abs()
    masks = prune(model, BatchNormScale(), Filter(), 0.5, allocation=Global(), batches=[X])
    kept = [mask.keep.flatten(1).all(dim=1) for mask in masks.values()]
    assert torch.equal(torch.cat(kept), gammas > gammas.quantile(0.5))


def test_removing_by_scale_and_shift_is_removal():
    """Where gamma and beta are zero, the filter's weights do not matter."""
    model = net().eval()
    with torch.no_grad():
        model.norm_a.weight[:3] = model.norm_a.bias[:3] = 0
        before = model(X)
        prune(model, BatchNormScale(), Filter(), 0.5, batches=[X], layers=["a"])
        assert torch.equal(model(X), before)
    assert not model.a.weight[:3].any()


def test_a_layer_used_twice_keeps_what_one_use_needs():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.first, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
            nn.init.normal_(self.first.weight)
            nn.init.normal_(self.second.weight)

        def forward(self, x):
            return self.second(self.layer(self.first(self.layer(x))))

    model = Shared()
    wanted = torch.maximum(model.first.weight.abs(), model.second.weight.abs())
    assert torch.equal(scales(model, torch.randn(3, 4))["layer.weight"], wanted)


@pytest.mark.parametrize(
    ("modules", "got"),
    [
        ([nn.ReLU(), nn.BatchNorm1d(4)], "none that gets its output"),
        ([nn.ReLU(inplace=True), nn.BatchNorm1d(4)], "none that gets its output"),
        ([nn.BatchNorm1d(4, affine=False)], "one without a scale"),
        ([nn.LayerNorm(4)], "none that gets its output"),
        ([], "none that gets its output"),
    ],
    ids=str,
)
def test_a_layer_without_one_is_named(modules, got):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), *modules)
    before = model[2].weight.detach().clone()
    with pytest.raises(CalibrationError, match=f"^2.weight: expected a BatchNorm behind the layer, got {got}$"):
        prune(model, BatchNormScale(), sparsity=0.5, batches=[torch.randn(3, 4)])
    assert torch.equal(model[2].weight, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.training


def test_batchnorm_over_tokens_is_not_over_outputs():
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))  # (batch, tokens, out): the second dimension is normed
    with pytest.raises(CalibrationError, match="none that gets its output"):
        scales(model, torch.randn(3, 5, 5))


def test_a_refused_batch_is_named():
    with pytest.raises(CalibrationError, match=r"batches\[0\]: expected what the model takes.*\(2, 3\)"):
        scales(net(), torch.randn(2, 3))
