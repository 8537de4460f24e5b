"""Criteria that read the weights alone, each against another way to compute it."""

import math

import pytest
import torch
from scipy.stats import binom, kstest
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Block, Filter
from sparsekit.pruning import (
    LAMP,
    FilterNorm,
    GeometricMedian,
    Global,
    LayerStatistics,
    Magnitude,
    RandomBernoulli,
    ThresholdMagnitude,
    prune,
)

NAMED = LayerStatistics("weight")


class TestRandomBernoulli:
    def test_the_count_is_binomial(self):
        counts = []
        for seed in range(300):
            model = nn.Linear(10, 10)
            counts.append(100 - prune(model, RandomBernoulli(seed), sparsity=0.3)["weight"].nnz)
        assert len(set(counts)) > 10
        u = torch.rand(300, generator=torch.Generator().manual_seed(0)).numpy()  # makes the discrete uniform continuous
        spread = binom.cdf([c - 1 for c in counts], 100, 0.3) + u * binom.pmf(counts, 100, 0.3)
        assert kstest(spread, "uniform").pvalue > 0.01

    def test_every_unit_has_the_same_chance_and_pairs_are_independent(self):
        kept = torch.stack(
            [
                prune(nn.Linear(8, 4), RandomBernoulli(seed), Block(2, 2), 0.6)["weight"].keep[::2, ::2].reshape(-1)
                for seed in range(1000)
            ]
        ).double()
        deviation = math.sqrt(0.4 * 0.6 / 1000)
        assert (kept.mean(dim=0) - 0.4).abs().max() < 4 * deviation
        pairs = kept.T @ kept / 1000 - torch.eye(8) * 0.24
        assert (pairs - 0.16).abs().max() < 4 * deviation

    def test_depends_on_seed_and_name_alone(self):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        counts = [RandomBernoulli(3).share("a", torch.empty(10, 100), 0.5) for _ in range(2)]
        assert counts[0] == counts[1]
        assert counts[0] not in (
            RandomBernoulli(4).share("a", torch.empty(10, 100), 0.5),
            RandomBernoulli(3).share("b", torch.empty(10, 100), 0.5),
        )
        assert torch.equal(state, torch.get_rng_state())


class TestThresholdMagnitude:
    @pytest.mark.parametrize("quality", [0.5, 1.0, 2.0])
    def test_removes_erf_of_a_gaussian(self, quality):
        torch.manual_seed(0)
        model = nn.Linear(400, 500)
        nn.init.normal_(model.weight, std=0.07)
        weight = model.weight.detach().clone()
        keep = prune(model, ThresholdMagnitude(quality))["weight"].keep
        share = math.erf(quality / math.sqrt(2))
        assert 1 - keep.double().mean() == pytest.approx(share, abs=5 * math.sqrt(0.25 / 200_000))
        assert torch.equal(keep, weight.abs() >= quality * weight.double().std(correction=0))

    def test_every_layer_has_its_own_threshold(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
        nn.init.normal_(model[0].weight)
        nn.init.normal_(model[1].weight, std=1e-3)
        assert all(0.6 < mask.sparsity < 0.76 for mask in prune(model, ThresholdMagnitude(1.0)).values())

    def test_global_finds_the_quality(self):
        torch.manual_seed(0)
        models = [nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7)) for _ in range(2)]
        with torch.no_grad():
            models[0][1].weight.mul_(100)
        models[1].load_state_dict(models[0].state_dict())
        weights = [layer.weight.detach().double() for layer in models[0]]
        ratios = torch.cat([(w.abs() / w.std(correction=0)).flatten() for w in weights]).sort().values
        gone = int(0.8 * len(ratios))
        ranked = prune(models[0], ThresholdMagnitude(), sparsity=0.8, allocation=Global())
        set_ = prune(models[1], ThresholdMagnitude(float(ratios[gone - 1 : gone + 1].mean())))
        for name, mask in ranked.items():
            assert torch.equal(mask.keep, set_[name].keep)

    def test_blocks_go_where_their_mean_is_below(self):
        torch.manual_seed(0)
        model = nn.Linear(12, 8)
        weight = model.weight.detach().double().clone()
        keep = prune(model, ThresholdMagnitude(0.9), Block(2, 3))["weight"].keep
        means = weight.abs().reshape(4, 2, 4, 3).mean(dim=(1, 3)) >= 0.9 * weight.std(correction=0)
        assert torch.equal(keep[::2, ::3], means)

    def test_weights_that_are_all_the_same_stay(self):
        model = nn.Linear(4, 4)
        nn.init.constant_(model.weight, 0.3)
        assert prune(model, ThresholdMagnitude(3.0))["weight"].keep.all()

    @pytest.mark.parametrize("amount", [{"sparsity": 0.5}, {"pattern": NM(2, 4)}])
    def test_a_second_amount_is_refused(self, amount):
        model = nn.Linear(8, 4)
        before = model.weight.detach().clone()
        with pytest.raises(PruningError, match=r"weight: ThresholdMagnitude\(quality=1.0\) sets the sparsity itself"):
            prune(model, ThresholdMagnitude(1.0), **amount)
        assert torch.equal(model.weight, before)

    def test_negative_quality(self):
        with pytest.raises(PruningError, match="quality >= 0 or None, got -1"):
            ThresholdMagnitude(-1)


@pytest.mark.parametrize("shape", [(10, 7), (9, 4, 3, 3)])
class TestFilterNorm:
    @pytest.mark.parametrize("p", [1, 2])
    @pytest.mark.parametrize("mean", [False, True])
    def test_equals_torch(self, shape, p, mean):
        layer = nn.Module()
        layer.weight = nn.Parameter(torch.randn(shape))
        weight = layer.weight.detach().clone()
        torch_prune.ln_structured(layer, "weight", amount=4, n=p, dim=0)
        keep = Filter().select(FilterNorm(p, mean).score(weight, NAMED), 4 / shape[0])
        assert torch.equal(keep, layer.weight_mask.bool())

    def test_scores_of_a_filter_sum_to_its_norm(self, shape):
        weight = torch.randn(shape)
        for p in (1, 2):
            wanted = torch.stack([f.abs().pow(p).sum().pow(1 / p) for f in weight.double()])
            torch.testing.assert_close(FilterNorm(p).score(weight, NAMED).flatten(1).sum(dim=1), wanted)
            mean = FilterNorm(p, mean=True).score(weight, NAMED).flatten(1).sum(dim=1)
            torch.testing.assert_close(mean, wanted / weight[0].numel())

    def test_l1_of_single_weights_is_magnitude(self, shape):
        weight = torch.randn(shape)
        torch.testing.assert_close(FilterNorm().score(weight, NAMED), weight.double().abs())

    def test_inside_a_filter_magnitude_decides(self, shape):
        weight = torch.randn(shape)
        inside = FilterNorm(2).score(weight, NAMED).flatten(1).argsort(dim=1)
        assert torch.equal(inside, weight.flatten(1).abs().argsort(dim=1))


class TestGeometricMedian:
    @pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
    def test_sums_of_distances(self, distance):
        weight = torch.randn(7, 3, 2, 2, dtype=torch.float64)
        flat = weight.flatten(1)
        scores = GeometricMedian(distance).score(weight, NAMED).flatten(1).sum(dim=1)
        for i in range(7):
            pairs = {
                "l2": lambda j: (flat[i] - flat[j]).square().sum().sqrt(),  # noqa: B023
                "l1": lambda j: (flat[i] - flat[j]).abs().sum(),  # noqa: B023
                "cosine": lambda j: 1 - flat[i] @ flat[j] / flat[i].norm() / flat[j].norm(),  # noqa: B023
            }
            assert float(scores[i]) == pytest.approx(sum(float(pairs[distance](j)) for j in range(7)), rel=1e-12)

    def test_equals_cdist_in_parts(self, monkeypatch):
        monkeypatch.setattr("sparsekit.pruning.criteria.geometric_median.ROOM", 30)
        weight = torch.randn(11, 6)
        wanted = torch.cdist(weight.double(), weight.double()).sum(dim=1)
        torch.testing.assert_close(GeometricMedian().score(weight, NAMED).sum(dim=1), wanted)

    def test_what_others_can_replace_goes_although_it_is_large(self):
        """Three near copies of one large filter are more alike than small filters far apart."""
        torch.manual_seed(0)
        weight = torch.eye(8)[:6] * 0.5
        weight[[1, 3, 4]] = torch.full((8,), 0.5) + 0.01 * torch.randn(3, 8)
        pattern = Filter()
        gone = ~pattern.select(GeometricMedian().score(weight, NAMED), 0.5)[:, 0]
        assert gone.nonzero().flatten().tolist() == [1, 3, 4]
        by_norm = ~pattern.select(FilterNorm(2).score(weight, NAMED), 0.5)[:, 0]
        assert by_norm.nonzero().flatten().tolist() == [0, 2, 5]

    def test_cosine_removes_zeros_first(self):
        weight = torch.randn(6, 5)
        weight[2] = 0
        scores = GeometricMedian("cosine").score(weight, NAMED)
        assert scores[:, 0].argmin() == 2
        assert scores.isfinite().all()

    def test_unknown_distance(self):
        with pytest.raises(PruningError, match="expected distance l2 or l1 or cosine, got 'l3'"):
            GeometricMedian("l3")


class TestLAMP:
    def test_brute_force(self):
        weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
        flat, scores = weight.flatten().tolist(), LAMP().score(weight, NAMED).flatten().tolist()
        for w, score in zip(flat, scores):
            total = 0.0
            for u in flat:
                if abs(u) >= abs(w):
                    total += u * u
            assert score == pytest.approx(w * w / total, rel=1e-12)

    def test_order_in_a_layer_is_that_of_magnitudes(self):
        weight = torch.randn(20, 20)
        scores = LAMP().score(weight, NAMED).flatten()
        assert torch.equal(scores.argsort(), weight.abs().flatten().argsort())
        assert scores.max() == 1.0

    def test_no_layer_loses_everything(self):
        """Magnitude empties the layers of small weights; LAMP goes down to one weight per layer, ties or not."""
        for tie in (False, True):
            models = []
            for _ in range(2):
                torch.manual_seed(0)
                model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))
                with torch.no_grad():
                    for depth, layer in enumerate(model):
                        layer.weight.mul_(0.01**depth)
                        if tie:
                            layer.weight.copy_(layer.weight.sign() * 0.01**depth)
                models.append(model)
            options = {"sparsity": 1 - 5 / 180, "allocation": Global()}
            assert [m.nnz for m in prune(models[0], LAMP(), **options).values()] == [1] * 5
            assert 0 in [m.nnz for m in prune(models[1], Magnitude(), **options).values()]
