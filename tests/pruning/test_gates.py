"""What is scored through gates on outputs: TaylorActivation, TaylorGate, Skeletonization."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.pruning.statistics import GateGradients, GradientSquare, LayerStatistics, ModelView
from sparsekit.pruning.surveying import surveyed
from sparsekit.pruning.targets import find_targets


class Network(nn.Module):
    """Convolutions, tokens and vectors; an operation in place behind a layer, as in residual networks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.tokens, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.double()

    def forward(self, x):
        y = self.norm(self.conv(x)).relu_()
        y = self.tokens(y.flatten(2).transpose(1, 2))
        y += 0.5
        return self.last(torch.tanh(y).mean(dim=1))


def data(sizes=(6, 6)):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 2, 5, 5, generator=generator, dtype=torch.float64), torch.arange(n).remainder(3)) for n in sizes
    ]


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def view_of(model, batches, loss=loss_fn, layers=None):
    return ModelView(model, find_targets(model, layers), batches, loss)


def activation_gradients(model, layer, x, y):
    """``a`` and ``dL/da`` of one sample, from a copy of what the layer returns: no gates."""
    kept = []

    def hook(module, args, output):
        kept.append(output)
        output.retain_grad()
        return output.clone()  # what follows in place leaves ours alone

    handle = layer.register_forward_hook(hook)
    model.eval()
    F.cross_entropy(model(x[None]), y[None]).backward()
    handle.remove()
    model.zero_grad()
    return kept[0].detach()[0], kept[0].grad[0]


@pytest.mark.parametrize(("name", "positions"), [("conv", 9), ("tokens", 9), ("last", 1)])
def test_gate_gradients_are_activations_times_gradients(name, positions):
    model, batches = Network(), data((6, 4))
    gates = GateGradients.collect(view_of(model, batches))[f"{name}.weight"]
    assert gates.sizes == (6, 4)
    assert gates.positions == (positions, positions)
    samples = [sample for x, y in batches for sample in zip(x, y)]
    for row, (x, y) in zip(gates.samples, samples):
        a, slope = activation_gradients(model, getattr(model, name), x, y)
        channels = (a * slope).sum(dim=(1, 2)) if name == "conv" else (a * slope).reshape(-1, len(row)).sum(dim=0)
        torch.testing.assert_close(row, channels)


def test_gate_gradients_are_those_of_an_explicit_gate():
    """One gate per channel for the whole batch, by finite differences of the batch's loss."""
    model, (batch,) = Network().eval(), data((6,))
    slopes = GateGradients.collect(view_of(model, [batch]))["conv.weight"].by_batch()[0]
    for channel in range(4):
        losses = []
        for step in (1e-6, -1e-6):
            moved = Network().eval()
            with torch.no_grad():
                moved.conv.weight[channel] *= 1 + step
                moved.conv.bias[channel] *= 1 + step
                losses.append(float(loss_fn(moved, batch)))
        assert float(slopes[channel]) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_without_bias_a_gate_is_the_sum_of_weights_times_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3, bias=False))
    model.double()
    batches = data((8,))
    found = GateGradients.collect(view_of(model, batches))
    loss_fn(model, batches[0]).backward()
    for name in ("0.weight", "3.weight"):
        weight = model.get_parameter(name)
        torch.testing.assert_close(found[name].by_batch()[0], (weight * weight.grad).flatten(1).sum(dim=1).detach())


def test_layers_used_twice_and_tied_weights_share_their_gates():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.last(torch.tanh(self.other(torch.tanh(self.one(torch.tanh(self.one(x)))))))

    model, x = Twice(), torch.randn(5, 4)
    view = ModelView(model, find_targets(model), [x], lambda model, x: model(x).square().mean())
    gates = GateGradients.collect(view)
    assert list(gates) == ["one.weight", "last.weight"]
    scale = torch.ones(4, requires_grad=True)
    y = torch.tanh(model.one(torch.tanh(model.one(x) * scale)) * scale)
    model.last(torch.tanh(model.other(y) * scale)).square().mean().backward()
    torch.testing.assert_close(gates["one.weight"].by_batch()[0], scale.grad)
    assert gates["one.weight"].positions == (3,)


def test_uses_with_other_numbers_of_samples_count_as_samples():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x).mean() + self.layer(x[:2]).square().mean()

    torch.manual_seed(0)
    model, x = Split(), torch.randn(5, 3)
    (gates,) = GateGradients.collect(ModelView(model, find_targets(model), [x], lambda m, x: m(x))).values()
    assert gates.sizes == (7,)
    scale = torch.ones(2, requires_grad=True)
    ((model.layer(x) * scale).mean() + (model.layer(x[:2]) * scale).square().mean()).backward()
    torch.testing.assert_close(gates.by_batch()[0], scale.grad)


def test_one_sample_without_a_batch():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(0), nn.Linear(27, 2)), torch.randn(2, 5, 5)
    view = ModelView(model, find_targets(model), [x], lambda model, x: model(x).square().sum())
    found = GateGradients.collect(view)
    assert found["0.weight"].samples.shape == (1, 3)
    assert found["0.weight"].positions == (9,)
    assert found["2.weight"].samples.shape == (1, 2)


def stats_of(samples, sizes, positions):
    return LayerStatistics("layer.weight", {GateGradients: GateGradients(samples, sizes, positions)})


class TestTaylorActivation:
    def test_by_hand(self):
        """The absolute value is of the mean over positions, inside the mean over samples."""
        model, batches = Network(), data((6, 4))
        ((_, stats),) = surveyed(view_of(model, batches, layers=["conv"]), sk.TaylorActivation().statistics())
        wanted = torch.zeros(4, dtype=torch.float64)
        for x, y in ((x, y) for batch in batches for x, y in zip(*batch)):
            a, slope = activation_gradients(model, model.conv, x, y)
            wanted += (a * slope).mean(dim=(1, 2)).abs() / 10
        scores = sk.TaylorActivation().score(model.conv.weight.detach(), stats)
        found = scores.flatten(1).sum(dim=1)
        torch.testing.assert_close(found, wanted / wanted.norm())
        assert float(found.norm()) == pytest.approx(1)

    def test_images_of_other_sizes_count_by_their_own_positions(self):
        samples = torch.tensor([[8.0, 4.0], [6.0, 60.0]])
        scores = sk.TaylorActivation().score(torch.ones(2, 1), stats_of(samples, (1, 1), (4.0, 6.0)))
        wanted = torch.tensor([2 + 1, 1 + 10.0])
        torch.testing.assert_close(scores.flatten(), (wanted / wanted.norm()).double(), rtol=1e-6, atol=0)

    def test_penalty_per_million_operations(self):
        weight, stats = torch.rand(4, 3, 2, 2), stats_of(torch.rand(5, 4), (2, 3), (100.0, 200.0))
        free = sk.TaylorActivation().score(weight, stats).flatten(1).sum(dim=1)
        paid = sk.TaylorActivation(flops_penalty=0.5).score(weight, stats).flatten(1).sum(dim=1)
        torch.testing.assert_close(free - paid, torch.full((4,), 0.5 * 2 * 12 * 150 / 1e6, dtype=torch.float64))

    def test_settings(self):
        with pytest.raises(sk.PruningError, match="flops_penalty >= 0, got -1"):
            sk.TaylorActivation(flops_penalty=-1)


class TestTaylorGate:
    def test_squares_come_after_the_mean(self):
        """Samples that cancel leave nothing."""
        weight = torch.ones(2, 3)
        samples = torch.tensor([[1.0, 1.0], [-1.0, 3.0]])
        found = sk.TaylorGate().score(weight, stats_of(samples, (2,), (1.0,))).sum(dim=1)
        assert found.tolist() == [0.0, pytest.approx(4.0)]

    def test_average_over_batches(self):
        samples = torch.tensor([[1.0], [2.0], [4.0], [3.0], [5.0]])
        stats = stats_of(samples, (2, 1, 2), (1.0,) * 3)
        found = float(sk.TaylorGate(momentum=0.75).score(torch.ones(1, 3), stats).sum())
        first, second, third = 1.5**2, 4.0**2, 4.0**2
        assert found == pytest.approx(0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)

    def test_by_weight(self):
        model, batches = Network(), data((6, 6, 6))
        method = sk.TaylorGate(momentum=0.75, by_weight=True)
        found = {
            t.name: method.score(t.weight.detach(), stats)
            for t, stats in surveyed(view_of(model, batches), method.statistics())
        }
        squares = []
        for batch in batches:
            model.zero_grad()
            loss_fn(model.eval(), batch).backward()
            squares.append({t.name: (t.weight * t.weight.grad).square().detach() for t in find_targets(model)})
        for name, score in found.items():
            wanted = 0.5625 * squares[0][name] + 0.1875 * squares[1][name] + 0.25 * squares[2][name]
            torch.testing.assert_close(score, wanted, rtol=1e-4, atol=1e-12)

    def test_settings_make_types(self):
        assert GradientSquare.using(momentum=0.5) is GradientSquare.using(momentum=0.5)
        assert GradientSquare.using(momentum=0.5) is not GradientSquare.using(momentum=0.6)
        with pytest.raises(sk.PruningError, match=r"momentum in \[0, 1\), got 1"):
            sk.TaylorGate(momentum=1)


class TestSkeletonization:
    def sigmoid_network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()

    def error(self, model, batch):
        return (model(batch[0]) - batch[1]).abs().sum(dim=1).mean()

    def relevance(self, model, batches, **settings):
        method = sk.Skeletonization(**settings)
        view = ModelView(model, find_targets(model, ["0"]), batches, self.error)
        ((target, stats),) = surveyed(view, method.statistics())
        return method.score(target.weight.detach(), stats).sum(dim=1)

    def batches(self, count):
        rows = torch.randn(count, 7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return [(batch[:, :3], batch[:, 3:]) for batch in rows]

    def test_is_minus_the_slope_of_the_attention_behind_the_unit(self):
        """Attention on a unit's output scales its outgoing weights: finite differences, and the sum of ``-g * w``."""
        model, (batch,) = self.sigmoid_network(), self.batches(1)
        found = self.relevance(model, [batch])
        assert found.min() < 0 < found.max()
        self.error(model, batch).backward()
        outgoing = -(model[2].weight * model[2].weight.grad).sum(dim=0).detach()
        torch.testing.assert_close(found, outgoing)
        for unit in range(6):
            errors = []
            for step in (1e-6, -1e-6):
                moved = self.sigmoid_network()
                with torch.no_grad():
                    moved[2].weight[:, unit] *= 1 + step
                    errors.append(float(self.error(moved, batch)))
            assert float(found[unit]) == pytest.approx(-(errors[0] - errors[1]) / 2e-6, rel=1e-5, abs=1e-9)

    def test_smoothing(self):
        model, batches = self.sigmoid_network(), self.batches(3)
        first, second, third = (self.relevance(model, [batch]) for batch in batches)
        torch.testing.assert_close(self.relevance(model, batches), 0.64 * first + 0.16 * second + 0.2 * third)
        with pytest.raises(sk.PruningError, match=r"smoothing in \[0, 1\), got -0\.1"):
            sk.Skeletonization(smoothing=-0.1)


@pytest.mark.parametrize("method", [sk.TaylorActivation(), sk.TaylorGate(), sk.Skeletonization()], ids=str)
class TestScoresOfFilters:
    def setting(self):
        torch.manual_seed(0)
        return torch.randn(6, 4, 3, 3), stats_of(torch.randn(8, 6), (4, 4), (5.0, 5.0))

    def test_sum_to_the_filter_s_and_follow_magnitude_inside(self, method):
        weight, stats = self.setting()
        scores, gates = method.score(weight, stats), stats[GateGradients]
        filters = getattr(method, "units", getattr(method, "filters", None))
        wanted = filters(weight, gates) if isinstance(method, sk.TaylorActivation) else filters(gates)
        units = sk.Block(1, 36).pool(scores)[:, 0]
        torch.testing.assert_close(units, wanted)
        for row, size in zip(scores.flatten(1), weight.flatten(1).abs()):
            assert torch.equal(row.abs().argsort(), size.argsort())

    def test_a_filter_of_zeros_scores_0(self, method):
        weight, stats = self.setting()
        weight[2] = 0
        scores = method.score(weight, stats)
        assert not scores[2].any()
        assert scores.isfinite().all()
        assert not method.score(weight * 0, stats).any()

    def test_whole_filters_go(self, method):
        model = Network()
        masks = sk.prune(model, method, sk.Filter(), 0.5, batches=data(), loss_fn=loss_fn, layers=["conv"])
        keep = masks["conv.weight"].keep.flatten(1)
        assert keep.all(dim=1).tolist() == keep.any(dim=1).tolist()
        assert int(keep.all(dim=1).sum()) == 2
