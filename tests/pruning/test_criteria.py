import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparsekit.patterns import NM, Unstructured
from sparsekit.pruning.criteria import Magnitude, MagnitudeGradient, Random, Wanda
from sparsekit.pruning.statistics import InputNorm, LayerStatistics, ModelView
from sparsekit.pruning.targets import find_targets
from sparsekit.pruning.walk import surveyed


def norms(rows):
    statistic = InputNorm(rows.shape[0], rows.shape[2], torch.empty(0))
    statistic.add(rows)
    return LayerStatistics("layer.weight", {InputNorm: statistic})


@pytest.mark.parametrize("shape", [(8, 12), (4, 3, 3, 3)])
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_magnitude_equals_torch(shape, sparsity):
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.randn(shape))
    weight = layer.weight.detach().clone()
    count = int(sparsity * weight.numel())
    torch_prune.l1_unstructured(layer, "weight", count)
    keep = Unstructured().select(Magnitude().score(weight, LayerStatistics("weight")), sparsity)
    assert torch.equal(keep, layer.weight_mask.bool())


def test_wanda_by_hand():
    torch.manual_seed(0)
    weight, rows = torch.randn(6, 8), torch.randn(1, 32, 8)
    scores = Wanda().score(weight, norms(rows))
    for i in range(6):
        for j in range(8):
            assert float(scores[i, j]) == pytest.approx(
                abs(float(weight[i, j])) * float(rows[0, :, j].norm()), rel=1e-5
            )
    keep = Unstructured().select(scores, 0.5, by_row=True)
    for i in range(6):
        assert keep[i].nonzero().flatten().tolist() == sorted(scores[i].argsort(descending=True)[:4].tolist())


def test_wanda_does_not_see_the_scale_of_a_row():
    weight, stats = torch.randn(6, 8), norms(torch.randn(1, 32, 8))
    scaled = weight * torch.rand(6, 1).add(0.1)
    for pattern, sparsity in ((Unstructured(), 0.4), (NM(2, 4), None)):
        choices = [pattern.select(Wanda().score(w, stats), sparsity, by_row=True) for w in (weight, scaled)]
        assert torch.equal(*choices)


def test_wanda_with_equal_norms_is_magnitude_by_row():
    weight = torch.randn(6, 8)
    keep = Unstructured().select(Wanda().score(weight, norms(torch.ones(1, 5, 8))), 0.5, by_row=True)
    assert torch.equal(keep, Unstructured().select(weight.abs(), 0.5, by_row=True))


def test_wanda_of_a_grouped_convolution():
    rows, weight = torch.randn(2, 10, 9), torch.randn(4, 1, 3, 3)
    scores = Wanda().score(weight, norms(rows))
    for out in range(4):
        expected = weight[out].abs() * rows[out // 2].norm(dim=0).reshape(1, 3, 3)
        torch.testing.assert_close(scores[out], expected)


def test_random_depends_on_seed_and_name_alone():
    weight = torch.randn(16, 16)
    first = Random(0).score(weight, LayerStatistics("a"))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(first, Random(0).score(weight * 2, LayerStatistics("a")))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, Random(1).score(weight, LayerStatistics("a")))
    assert not torch.equal(first, Random(0).score(weight, LayerStatistics("b")))
    assert first.min() >= 0
    assert first.max() < 1


def test_random_is_the_same_on_every_machine():
    """A golden value: ranks and releases have to agree."""
    scores = Random(7).score(torch.empty(3), LayerStatistics("encoder.0.weight"))
    assert scores.tolist() == GOLDEN


GOLDEN = [0.4213153574290265, 0.8652769814516594, 0.32595492960396344]


def test_magnitude_gradient_is_the_product_with_autograd_s_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    batches = [torch.randn(6, 5) for _ in range(3)]
    view = ModelView(model, find_targets(model), batches, lambda model, x: model(x).square().mean())
    sum(view.loss_fn(model, x) for x in batches).div(3).backward()
    for target, stats in surveyed(view, MagnitudeGradient.needs):
        wanted = (target.weight * target.weight.grad).abs()
        torch.testing.assert_close(MagnitudeGradient().score(target.weight.detach(), stats), wanted.detach())
