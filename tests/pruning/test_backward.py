"""Methods that run a model backwards: what is refused, and that the model stays as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk

METHODS = [
    sk.MagnitudeGradient(),
    sk.TaylorActivation(),
    sk.TaylorGate(),
    sk.TaylorGate(by_weight=True),
    sk.Skeletonization(),
    sk.OBD(probes=2),
    sk.SNIP(),
    sk.IterativeSNIP(rounds=2),
    sk.FORCE(rounds=2),
    sk.GraSP(),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)
X = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Every kind of state that could be left changed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)
        self.dropout, self.unused = nn.Dropout(0.5), nn.Linear(3, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)
        self.last.weight.requires_grad_(False)
        self.calls = 0
        self.last.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, x):
        return self.last(self.dropout(F.relu(self.norm(self.conv(x)))).flatten(1))


def network():
    model = Network()
    model.norm.eval()  # in a model that trains: both flags have to come back
    return model


def state_of(model):
    """Everything about a model, tensors as bytes."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {name: value.detach().reshape(-1).view(torch.uint8).tolist() for name, value in tensors.items()},
        "identities": {name: id(value) for name, value in tensors.items()},
        "gradients": {
            name: None if p.grad is None else (id(p.grad), p.grad.flatten().tolist())
            for name, p in model.named_parameters()
        },
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for name, module in model.named_modules()
        },
        "random": torch.get_rng_state().tolist(),
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
        "attention": torch.backends.cuda.flash_sdp_enabled(),
        "grad mode": torch.is_grad_enabled(),
    }


def loss_fn(model, batch):
    return model(batch).square().mean()


def prune(model, method, loss=loss_fn, batches=(X, X + 1), layers=("conv", "last")):
    return sk.prune(model, method, sparsity=0.5, batches=batches, loss_fn=loss, layers=layers)


@every_method
def test_only_the_weights_change(method):
    model = network()
    before = state_of(model)
    prune(model, method)
    after = state_of(model)
    for name in ("conv.weight", "last.weight"):
        assert before["values"].pop(name) != after["values"].pop(name)
    assert before == after


def halfway(model, batch):
    if model.calls >= 1:
        raise RuntimeError("no more")
    return loss_fn(model, batch)


FAILURES = {
    "a batch that fails half-way": (halfway, {}, r"batches\[1\].*no more"),
    "NaN loss": (lambda model, x: loss_fn(model, x) * float("nan"), {}, "finite loss, got nan"),
    "a vector of losses": (lambda model, x: model(x).square().mean(dim=1), {}, r"scalar tensor, got float32 \(6,\)"),
    "no tensor": (lambda model, x: 1.0, {}, "scalar tensor, got float"),
    "a constant": (lambda model, x: model(x).mean().detach(), {}, "depends on the layers"),
    "batches that do not fit": (loss_fn, {"batches": [X[0, 0, 0]]}, r"batches\[0\].*\(4,\)"),
    "no loss": (None, {}, "needs loss_fn"),
    "no batches": (loss_fn, {"batches": None}, "needs batches"),
    "an unused layer": (loss_fn, {"layers": ["conv", "unused"]}, r"unused\.weight: expected .*(depends on|reach) it"),
    "zero gradients": (lambda model, x: model(x).mean() * 0, {}, "zeros in every layer"),
}


@every_method
@pytest.mark.parametrize("failure", FAILURES, ids=list(FAILURES))
def test_failures_leave_the_model_as_it_was(method, failure):
    loss, options, words = FAILURES[failure]
    model = network()
    before = state_of(model)
    with pytest.raises(sk.CalibrationError, match=words) as caught:
        prune(model, method, loss, **options)
    assert "\n" not in str(caught.value)
    assert state_of(model) == before


@every_method
def test_a_layer_of_zeros_is_no_failure(method):
    model = network()
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.bias.zero_()
        model.norm.bias.fill_(1.0)  # so that the last layer sees something
    masks = prune(model, method)
    assert masks["conv.weight"].nnz == model.conv.weight.numel() // 2


@every_method
def test_inference_mode_is_refused(method):
    with torch.inference_mode(), pytest.raises(sk.CalibrationError, match="inference_mode"):
        prune(network(), method)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(method, dtype):
    model = network().to(dtype)
    masks = prune(model, method, batches=[X.to(dtype)])
    assert {mask.sparsity for mask in masks.values()} == {0.5}
    assert model.conv.weight.dtype == dtype


@every_method
def test_under_no_grad_as_well(method):
    first, second = network(), network()
    wanted = prune(first, method)
    with torch.no_grad():
        found = prune(second, method)
    assert all(torch.equal(wanted[name].keep, found[name].keep) for name in wanted)
