import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.pruning.statistics import ModelView
from sparsekit.pruning.surveying import surveyed
from sparsekit.pruning.targets import find_targets


@pytest.fixture(autouse=True)
def _one_thread():
    """Hundreds of rounds over tiny layers: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scores_of(model, batches, loss_fn=None):
    view = ModelView(model, find_targets(model), batches, loss_fn)
    found = surveyed(view, sk.SynFlow().statistics())
    return {target.name: sk.SynFlow().score(target.weight.detach(), stats) for target, stats in found}


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 4, 3, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 7, bias=False),
    )


def test_each_layer_passes_on_the_whole_flow():
    """Without biases the scores of every layer sum to the output of the positive network."""
    model, x = convolutional(), torch.randn(2, 3, 8, 8)
    positive = convolutional().double()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
        flow = float(positive(torch.ones(2, 3, 8, 8, dtype=torch.float64)).sum())
    for scores in scores_of(model, [x]).values():
        assert scores.dtype == torch.float64
        assert float(scores.sum()) == pytest.approx(flow, rel=1e-12)
        assert scores.min() >= 0


def test_it_counts_the_paths_of_a_two_layer_network():
    """By hand: a weight's score is its size, times what reaches its input, times what leaves its output."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    first, last = (model[index].weight.detach().double().abs() for index in (0, 2))
    found = scores_of(model, [torch.randn(1, 3)])
    torch.testing.assert_close(found["0.weight"], first * last.sum(dim=0)[:, None])
    torch.testing.assert_close(found["2.weight"], last * first.sum(dim=1))


def test_inputs_labels_and_signs_do_not_matter():
    model, x = convolutional(), torch.randn(2, 3, 8, 8)
    wanted = scores_of(model, [x])

    def loss_fn(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    for labels in (torch.tensor([0, 1]), torch.tensor([6, 2])):
        found = scores_of(model, [(x * 100, labels)], loss_fn)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with torch.no_grad():
        model[0].weight.neg_()
    found = scores_of(model, [x])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def deep(seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(10, 10, bias=False)]
    for _ in range(9):
        layers += [nn.ReLU(), nn.Linear(10, 10, bias=False)]
    return nn.Sequential(*layers)


def collapsed(method, seed):
    """Whether a layer loses everything at one kept weight in fifty."""
    generator = torch.Generator().manual_seed(seed)
    batch = (torch.randn(32, 10, generator=generator), torch.arange(32) % 10)
    masks = sk.prune(
        deep(seed),
        method,
        sparsity=0.98,
        allocation=sk.Global(),
        batches=[batch],
        loss_fn=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    )
    return any(mask.nnz == 0 for mask in masks.values())


def test_no_layer_dies_where_others_lose_some():
    seeds = range(2)
    assert not any(collapsed(sk.SynFlow(), seed) for seed in seeds)
    for method in (sk.Magnitude(), sk.SNIP(), sk.GraSP(), sk.SynFlow(rounds=1)):
        assert any(collapsed(method, seed) for seed in seeds), method


class Normed(nn.Module):
    """What cannot be made positive by taking absolute values alone: embeddings, norms that subtract a mean."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.norm, self.groups = nn.LayerNorm(6), nn.GroupNorm(2, 6)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("shift", -torch.ones(6))

    def forward(self, tokens, scale=None):
        x = F.relu(self.first(self.norm(self.table(tokens))) + self.shift * 0)
        return {"logits": self.last(self.groups(x.transpose(1, 2)).transpose(1, 2)), "other": tokens}


def test_token_ids_stay_and_norms_only_scale():
    torch.manual_seed(0)
    model = Normed()
    with torch.no_grad():
        model.norm.weight.uniform_(-1, 1)
        model.groups.bias.uniform_(-1, 1)
    tokens = torch.randint(0, 11, (2, 4))
    found = scores_of(model, [{"tokens": tokens}])
    p = {name: value.detach().double().abs() for name, value in model.named_parameters()}
    x = p["table.weight"][tokens] * p["norm.weight"] + p["norm.bias"]
    y = x @ p["first.weight"].T + p["first.bias"]
    out = p["last.weight"].sum(dim=0)
    torch.testing.assert_close(
        found["last.weight"],
        p["last.weight"] * (y * p["groups.weight"] + p["groups.bias"]).sum(dim=(0, 1)),
    )
    torch.testing.assert_close(
        found["first.weight"], p["first.weight"] * x.sum(dim=(0, 1)) * (out * p["groups.weight"])[:, None]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_model_is_bit_for_bit_as_it_was(dtype):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)
    model[1].running_mean.uniform_(-1, 1)
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    model[4].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones(3, dtype=dtype)
    model.train()
    before = {
        name: (value, value.clone(), value.data_ptr()) for name, value in model.state_dict(keep_vars=True).items()
    }
    x, state = torch.randn(2, 2, 4, 4).to(dtype), torch.get_rng_state()
    scores_of(model, [x])
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.state_dict(keep_vars=True).items():
        same, copy, place = before[name]
        assert value is same
        assert value.data_ptr() == place
        assert torch.equal(value.view(torch.uint8), copy.view(torch.uint8)) if value.dim() else value == copy
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]
    assert torch.equal(model[4].bias.grad, torch.ones(3, dtype=dtype))
    assert model[4].weight.grad is None
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_very_deep_networks_do_not_overflow():
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(60)])
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(10.0)
    scores = scores_of(model, [torch.ones(1, 64)])  # 640 ** 60 is far from float32
    assert all(float(value.sum()) == pytest.approx(64 * 640.0**60) for value in scores.values())


class TestErrors:
    def test_no_batches(self):
        with pytest.raises(sk.CalibrationError, match="needs batches"):
            sk.prune(deep(0), sk.SynFlow(), sparsity=0.5)

    def test_a_batch_that_does_not_fit(self):
        with pytest.raises(sk.CalibrationError, match=r"batches\[0\].*\(2, 7\)"):
            sk.prune(deep(0), sk.SynFlow(), sparsity=0.5, batches=[torch.ones(2, 7)])

    def test_a_layer_that_is_not_reached(self):
        model = deep(0)
        model.unused = nn.Linear(3, 3)
        model.forward = model[0].forward
        with pytest.raises(sk.CalibrationError, match=r"2\.weight: expected outputs that depend on it"):
            sk.prune(model, sk.SynFlow(), sparsity=0.5, batches=[torch.ones(2, 10)])

    def test_a_flow_that_overflows(self):
        model = nn.Sequential(*[nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(4)])
        with torch.no_grad():
            for layer in model:
                layer.weight.fill_(1e100)
        with pytest.raises(sk.CalibrationError, match="finite flow"):
            sk.prune(model, sk.SynFlow(), sparsity=0.5, batches=[torch.ones(1, 4)])

    def test_a_model_whose_flow_is_cut(self):
        model = deep(0)
        with torch.no_grad():
            model[4].weight.zero_()
        with pytest.raises(sk.CalibrationError, match=r"SynFlow\(rounds=100\).*zeros in every layer"):
            sk.prune(model, sk.SynFlow(), sparsity=0.5, batches=[torch.ones(1, 10)])

    def test_a_loss_that_does_not_call_the_model(self):
        with pytest.raises(sk.CalibrationError, match="expected it to call the model"):
            sk.prune(deep(0), sk.SynFlow(), sparsity=0.5, batches=[torch.ones(1, 10)], loss_fn=lambda *_: 1)
