"""Methods for models before training: SNIP, IterativeSNIP, FORCE and GraSP."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.pruning.statistics import HessianGradient, InitialGradient, ModelView
from sparsekit.pruning.surveying import surveyed
from sparsekit.pruning.targets import find_targets


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def data(count=2):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 2, 6, 6, generator=generator), torch.arange(12).remainder(3 + index) % 3)
        for index in range(count)
    ]


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def scores_of(model, method, batches, loss=loss_fn):
    view = ModelView(model, find_targets(model), batches, loss)
    found = surveyed(view, method.statistics())
    return {target.name: method.score(target.weight.detach(), stats) for target, stats in found}


def test_snip_is_the_gradient_of_an_explicit_mask():
    model, batches = network(), data()
    model.train()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    masks = {t.name: torch.ones_like(t.weight, requires_grad=True) for t in find_targets(model)}
    masked = {**weights, **{name: weights[name] * mask for name, mask in masks.items()}}

    def run(x):
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        return torch.func.functional_call(model, {**masked, **buffers}, (x,))

    sum(F.cross_entropy(run(x), y) for x, y in batches).div(len(batches)).backward()
    total = sum(float(mask.grad.abs().sum()) for mask in masks.values())
    found = scores_of(model, sk.SNIP(), batches)
    assert list(found) == list(masks)
    for name, mask in masks.items():
        torch.testing.assert_close(found[name], (mask.grad.abs() / total).double(), rtol=1e-4, atol=1e-8)


def test_snip_sums_to_one_and_does_not_see_the_scale_of_the_loss():
    model, batches = network(), data()
    found = scores_of(model, sk.SNIP(), batches)
    assert sum(float(scores.sum()) for scores in found.values()) == pytest.approx(1)
    scaled = scores_of(model, sk.SNIP(), batches, lambda *args: 1000 * loss_fn(*args))
    for name, scores in found.items():
        torch.testing.assert_close(scaled[name], scores, rtol=1e-4, atol=1e-9)


def test_snip_normalises_by_the_batch():
    """Running averages far from the data change nothing."""
    model, batches = network(), data(1)
    found = scores_of(model, sk.SNIP(), batches)
    model[1].running_mean += 5
    model[1].running_var *= 100
    for name, scores in scores_of(model, sk.SNIP(), batches).items():
        assert torch.equal(scores, found[name])


def masks_of(method, sparsity=0.9, seed=0):
    return sk.prune(network(seed), method, sparsity=sparsity, allocation=sk.Global(), batches=data(), loss_fn=loss_fn)


@pytest.mark.parametrize("kind", [sk.IterativeSNIP, sk.FORCE])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_round_is_snip(kind, seed):
    wanted, found = masks_of(sk.SNIP(), seed=seed), masks_of(kind(rounds=1), seed=seed)
    assert all(torch.equal(wanted[name].keep, found[name].keep) for name in wanted)


class Watched:
    """Counts the weights that are zero at each call of the loss: one call per batch and round."""

    def __init__(self):
        self.kept = []

    def __call__(self, model, batch):
        self.kept.append({t.name: t.weight.detach() != 0 for t in find_targets(model)})
        return loss_fn(model, batch)


def rounds_of(method, sparsity=0.95):
    """The masks that each round starts from, and the last."""
    watched, model = Watched(), network()
    masks = sk.prune(model, method, sparsity=sparsity, allocation=sk.Global(), batches=data(1), loss_fn=watched)
    kept = watched.kept if len(watched.kept) == method.rounds else watched.kept[::2]
    assert len(kept) == method.rounds
    return [*kept, {name: mask.keep for name, mask in masks.items()}]


def returned(steps):
    """Weights that are there after a round and were not before it."""
    return sum(
        int((after[name] & ~before[name]).sum()) for before, after in itertools.pairwise(steps) for name in after
    )


def test_iterative_snip_is_nested_and_force_is_not():
    assert returned(rounds_of(sk.IterativeSNIP(rounds=6))) == 0
    assert returned(rounds_of(sk.FORCE(rounds=6))) > 0


@pytest.mark.parametrize("kind", [sk.IterativeSNIP, sk.FORCE])
def test_the_density_falls_geometrically_to_the_exact_count(kind):
    steps = rounds_of(kind(rounds=4), sparsity=0.9)
    total = sum(keep.numel() for keep in steps[0].values())
    for number, step in enumerate(steps):
        assert sum(int(keep.sum()) for keep in step.values()) == pytest.approx(total * 0.1 ** (number / 4), abs=1)


def test_force_scores_dense_weights_by_the_gradient_of_the_pruned_model():
    """Two rounds by hand."""
    model = network()
    dense = {t.name: t.weight.detach().clone() for t in find_targets(model)}
    first = scores_of(model, sk.SNIP(), data())
    kept = torch.cat([s.flatten() for s in first.values()]).topk(round(sum(w.numel() for w in dense.values()) * 0.3))
    with torch.no_grad():
        for target in find_targets(model):
            target.weight.mul_(first[target.name] >= kept.values[-1])
    view = ModelView(model, find_targets(model), data(), loss_fn)
    gradients = InitialGradient.collect(view)
    ranked = torch.cat([(dense[name].double() * gradients[name].mean.double()).abs().flatten() for name in dense])
    found = masks_of(sk.FORCE(rounds=2), sparsity=0.91)
    keep = torch.cat([found[name].keep.flatten() for name in dense])
    assert float(ranked[keep].min()) >= float(ranked[~keep].max())


class Tiny(nn.Module):
    """Twenty weights behind a smooth nonlinearity, so that a Hessian can be written out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.double()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def tiny_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def tiny_batches():
    generator = torch.Generator().manual_seed(4)
    return [(torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.arange(5) % 2) for _ in range(2)]


def loss_at(flat):
    """The mean loss over all batches at twenty weights."""
    first, last = flat[:12].reshape(4, 3), flat[12:].reshape(2, 4)
    return sum(F.cross_entropy(torch.tanh(x @ first.T) @ last.T, y) for x, y in tiny_batches()) / 2


def flat_weights():
    return torch.cat([value.detach().flatten() for value in Tiny().parameters()])


def test_hessian_times_gradient_is_that_of_the_explicit_hessian():
    model, point = Tiny(), flat_weights()
    hessian, gradient = torch.autograd.functional.hessian(loss_at, point), torch.func.grad(loss_at)(point)
    found = HessianGradient.collect(ModelView(model, find_targets(model), tiny_batches(), tiny_loss))
    flat = torch.cat([statistic.product.flatten() for statistic in found.values()])
    torch.testing.assert_close(flat, hessian @ gradient)
    step = 1e-6 * gradient
    difference = torch.func.grad(loss_at)(point + step) - torch.func.grad(loss_at)(point - step)
    torch.testing.assert_close(flat, difference / 2e-6, rtol=1e-4, atol=1e-8)


def test_grasp_predicts_what_the_gradient_s_norm_does():
    """Shrinking one weight by a small part: the square of the norm changes by -2 * part * score."""
    point, part = flat_weights(), 1e-5
    scores = torch.cat([s.flatten() for s in scores_of(Tiny(), sk.GraSP(), tiny_batches(), tiny_loss).values()])
    norm = float(torch.func.grad(loss_at)(point).square().sum())
    for index in range(20):
        moved = point.clone()
        moved[index] *= 1 - part
        change = float(torch.func.grad(loss_at)(moved).square().sum()) - norm
        assert change == pytest.approx(-2 * part * float(scores[index]), rel=1e-2, abs=1e-11)


def test_grasp_keeps_what_the_gradient_s_norm_would_miss_most():
    scores = torch.cat([s.flatten() for s in scores_of(Tiny(), sk.GraSP(), tiny_batches(), tiny_loss).values()])
    assert scores.min() < 0 < scores.max()
    masks = sk.prune(
        Tiny(), sk.GraSP(), sparsity=0.5, allocation=sk.Global(), batches=tiny_batches(), loss_fn=tiny_loss
    )
    keep = torch.cat([mask.keep.flatten() for mask in masks.values()])
    assert sorted(scores[keep].tolist()) == sorted(scores.tolist())[10:]


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    model = nn.Linear(3, 2)
    view = ModelView(model, find_targets(model), [torch.randn(4, 3)], lambda model, x: model(x).mean())
    assert not HessianGradient.collect(view)["weight"].product.any()
    with pytest.raises(sk.CalibrationError, match=r"GraSP\(\): expected scores that tell weights apart"):
        sk.prune(model, sk.GraSP(), sparsity=0.5, batches=view.batches, loss_fn=view.loss_fn)


def test_attention_has_second_derivatives():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(8, 24)

        def forward(self, x):
            query, key, value = self.mix(x).chunk(3, dim=-1)
            return F.scaled_dot_product_attention(query, key, value)

    torch.manual_seed(0)
    scores = scores_of(Attending(), sk.GraSP(), [torch.randn(2, 5, 8)], lambda model, x: model(x).square().mean())
    assert scores["mix.weight"].any()


@pytest.mark.parametrize("kind", [sk.IterativeSNIP, sk.FORCE, sk.SynFlow])
def test_no_rounds_are_refused(kind):
    with pytest.raises(sk.PruningError, match=rf"{kind.__name__}: expected rounds >= 1, got 0"):
        kind(rounds=0)
