import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.pruning.statistics import HessianDiagonal, ModelView
from sparsekit.pruning.surveying import surveyed
from sparsekit.pruning.targets import find_targets


def scores_of(model, method, batches, loss_fn):
    found = surveyed(ModelView(model, find_targets(model), batches, loss_fn), method.statistics())
    return {target.name: method.score(target.weight.detach(), stats) for target, stats in found}


def quadratic(scales, seed=0):
    """A trained linear model whose inputs are orthogonal, so that the Hessian of its squared error is diagonal."""
    torch.manual_seed(seed)
    model = nn.Linear(len(scales), 3, bias=False, dtype=torch.float64)
    x = torch.linalg.qr(torch.randn(9, len(scales), dtype=torch.float64)).Q * torch.tensor(scales, dtype=torch.float64)
    target = model(x).detach()
    return model, x, lambda model, x: 0.5 * (model(x) - target).square().sum()


SCALES = [0.1, 3.0, 1.0, 0.5, 2.0]


@pytest.mark.parametrize("probes", [1, 3])
def test_saliencies_add_up_to_what_the_loss_rises_by(probes):
    model, x, loss_fn = quadratic(SCALES)
    scores = scores_of(model, sk.OBD(probes=probes), [x], loss_fn)["weight"]
    diagonal = torch.tensor(SCALES, dtype=torch.float64).square()
    torch.testing.assert_close(scores, 0.5 * diagonal * model.weight.detach().square())
    masks = sk.prune(model, sk.OBD(probes=probes), sparsity=0.6, batches=[x], loss_fn=loss_fn)
    assert float(loss_fn(model, x).detach()) == pytest.approx(float(scores[~masks["weight"].keep].sum()))


def test_equal_curvature_is_magnitude():
    model, x, loss_fn = quadratic([2.0] * 5)
    scores = scores_of(model, sk.OBD(), [x], loss_fn)["weight"]
    assert torch.equal(scores.flatten().argsort(), model.weight.detach().abs().flatten().argsort())


def test_estimate_of_a_full_hessian():
    """Against the explicit Hessian: the error is that of the other entries, over the root of the probes."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()

    def at(flat):
        return 0.5 * (torch.tanh(x @ flat[:12].reshape(4, 3).T) @ flat[12:].reshape(2, 4).T - y).square().mean()

    flat = torch.cat([value.detach().flatten() for value in model.parameters()])
    hessian = torch.autograd.functional.hessian(at, flat)
    others = float((hessian - hessian.diagonal().diag()).norm())
    for probes in (4, 256):
        view = ModelView(model, find_targets(model), [x], lambda model, x: 0.5 * (model(x) - y).square().mean())
        found = HessianDiagonal.using(probes=probes, seed=0).collect(view)
        error = torch.cat([s.diagonal.flatten() for s in found.values()]) - hessian.diagonal()
        assert 0.5 < float(error.norm()) / (others / probes**0.5) < 2


def test_negative_curvature_counts_by_its_size():
    model = nn.Linear(3, 1, bias=False)
    curvature = torch.tensor([[2.0, -3.0, 0.0]])
    scores = scores_of(model, sk.OBD(), [None], lambda model, _: 0.5 * (curvature * model.weight.square()).sum())
    torch.testing.assert_close(scores["weight"], 0.5 * curvature.abs() * model.weight.detach().square())


def test_mean_over_batches():
    model = nn.Linear(2, 2, bias=False)
    scores = scores_of(model, sk.OBD(), [1.0, 5.0], lambda model, factor: factor * model.weight.square().sum())
    torch.testing.assert_close(scores["weight"], 0.5 * 6 * model.weight.detach().square())


def test_probes_depend_on_the_seed_alone():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(6, 4)

    def run(seed):
        return scores_of(model, sk.OBD(seed=seed, probes=2), [x], lambda model, x: model(x).square().mean())["0.weight"]

    first = run(0)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert torch.equal(first, run(0))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, run(1))


def test_probes_below_1_are_refused():
    with pytest.raises(sk.PruningError, match="probes >= 1, got 0"):
        sk.OBD(probes=0)
