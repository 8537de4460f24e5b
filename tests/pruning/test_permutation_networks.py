"""A permutation leaves the output of a network alone, whatever the network does with its channels."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Block
from sparsekit.pruning import Magnitude, permute_for, prune


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first, self.norm1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.norm2 = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))
        return self.head(x.mean(dim=(2, 3)))


class Attention(nn.Module):
    """BERT's: projections of their own, heads by a reshape, softmax written out or fused."""

    def __init__(self, fused):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)
        self.fused = fused

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, dim=-1) @ v
        x = self.norm(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.head(x + self.down(F.gelu(self.up(x))))


class Dense(nn.Module):
    """Concatenation, and what is cut out of it again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 12)
        self.c, self.d, self.e = nn.Linear(20, 16), nn.Linear(8, 4), nn.Linear(16, 4)

    def forward(self, x):
        both = torch.cat([torch.tanh(self.a(x)), torch.relu(self.b(x))], dim=1)
        return self.e(self.c(both)) + self.d(both[:, :8])


class Gated(nn.Module):
    """Two projections in one weight, taken apart and multiplied."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 32), nn.Linear(16, 4)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Recurrent(nn.Module):
    """Behind an operation that nothing is known of."""

    def __init__(self):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(4, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.cell(self.first(x))[0])


class PerHead(nn.Module):
    """Something that mixes heads, so that channels cannot move within each head by itself."""

    def __init__(self, mix):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 4)
        self.mix = mix

    def forward(self, x):
        return self.down(self.mix(self.up(x).view(-1, 2, 8)).reshape(-1, 16))


MLP = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 13), nn.Tanh(), nn.Linear(13, 4))
CNN = nn.Sequential(
    *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GroupNorm(2, 8), nn.Conv2d(8, 12, 2, groups=2), nn.PReLU(12)),
    *(nn.Conv2d(12, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.Flatten(), nn.Linear(8 * 9, 16), nn.Linear(16, 3)),
)


def shaken(model, seed=0):
    """A model whose normalisations are no identities."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else torch.randn_like(value) * 0.4)
    return model.eval()


def encoder():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertModel(config, add_pooling_layer=False)


TOKENS = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
MOVED = {
    "mlp": (lambda: copy.deepcopy(MLP), torch.randn(5, 8), {"3", "5"}),
    "cnn": (lambda: copy.deepcopy(CNN), torch.randn(2, 3, 10, 10), {"8", "12"}),
    "residual": (Residual, torch.randn(2, 3, 6, 6), {"first", "second", "head"}),
    "attention": (lambda: Attention(False), torch.randn(2, 5, 16), {"out", "down"}),
    "fused": (lambda: Attention(True), torch.randn(2, 5, 16), {"out", "down"}),
    "module": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16), {"linear2"}),
    "bert": (encoder, TOKENS, {"output.dense"}),
    "concatenation": (Dense, torch.randn(5, 6), {"c", "d", "e"}),
    "gated": (Gated, torch.randn(5, 6), {"down"}),
    "recurrent": (Recurrent, torch.randn(2, 3, 4), set()),
    "softmax over heads": (lambda: PerHead(lambda x: x.softmax(dim=1)), torch.randn(5, 6), {"down"}),
    "rolled heads": (lambda: PerHead(lambda x: x.roll(1, dims=1) * x), torch.randn(5, 6), {"down"}),
    "heads against heads": (lambda: PerHead(lambda x: (x @ x.transpose(1, 2)) @ x), torch.randn(5, 6), {"down"}),
    "sorted": (lambda: PerHead(lambda x: x.sort(dim=2).values), torch.randn(5, 6), set()),
    "weighed": (lambda: PerHead(lambda x: x * torch.arange(8)), torch.randn(5, 6), set()),
    "cumulated": (lambda: PerHead(lambda x: x.cumsum(dim=2)), torch.randn(5, 6), set()),
}


def run(model, inputs):
    with torch.no_grad():
        out = model(**inputs).last_hidden_state if isinstance(inputs, dict) else model(inputs)
    return out


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 8), Block(4, 4)], ids=str)
@pytest.mark.parametrize("name", MOVED)
def test_output_stays(name, pattern):
    make, inputs, moved = MOVED[name]
    model = shaken(make()).double()
    inputs = inputs if isinstance(inputs, dict) else inputs.double()
    wanted, before = run(model, inputs), copy.deepcopy(model)
    result = permute_for(model, pattern, inputs, method="swaps", sparsity=None if isinstance(pattern, NM) else 0.5)
    torch.testing.assert_close(run(model, inputs), wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        run(model, other := _other(inputs)), run(before, other), rtol=1e-9, atol=1e-11, msg="on inputs never seen"
    )
    if pattern == NM(2, 4):
        assert moved <= {name.removesuffix(".weight").split(".", 3)[-1] for name in result if not result[name].reason}
    for layer in result.values():
        assert layer.after <= layer.bound + 1e-9
    assert sum(layer.after for layer in result.values()) >= sum(layer.before for layer in result.values())


def _other(inputs):
    torch.manual_seed(1)
    if isinstance(inputs, dict):
        return {"input_ids": (inputs["input_ids"] * 7 + 3) % 50, "attention_mask": inputs["attention_mask"]}
    return torch.randn_like(inputs)


def test_reasons():
    result = permute_for(shaken(Recurrent()), NM(2, 4), torch.randn(2, 3, 4))
    assert "is an input of the model" in result["first.weight"].reason
    assert "cannot be followed" in result["last.weight"].reason
    result = permute_for(shaken(encoder()), NM(2, 4), TOKENS)
    assert "is an output of the model" in result["encoder.layer.0.intermediate.dense.weight"].reason
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    model.forward = model["used"].forward
    assert "not reached" in permute_for(model, NM(2, 4), torch.randn(2, 4))["unused.weight"].reason


class Secretive(nn.Module):
    """Reads its channels in a way that no operation shows."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 6)

    def forward(self, x):
        hidden = self.up(x)
        scale = torch.tensor((hidden.detach().numpy() * range(8)).sum(-1, keepdims=True), dtype=x.dtype)
        return self.down(hidden * scale)


def test_what_cannot_be_followed_is_found_out_and_undone():
    model = shaken(Secretive())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError, match="expected the same output after the permutation"):
        permute_for(model, NM(2, 4), torch.randn(3, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_modes_hooks_and_identity_are_left_alone():
    model = shaken(Residual()).train()
    parameters, versions = dict(model.named_parameters()), model.norm1.num_batches_tracked.clone()
    permute_for(model, NM(2, 4), torch.randn(2, 3, 6, 6))
    assert all(module.training for module in model.modules())
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert torch.equal(model.norm1.num_batches_tracked, versions)


def test_pruning_keeps_what_was_promised():
    model = shaken(copy.deepcopy(MLP))
    result = permute_for(model, NM(2, 4), torch.randn(2, 8))
    masks = prune(model, Magnitude(), NM(2, 4))
    for name, value in model.named_parameters():
        if name in masks:
            assert float(value.detach().abs().sum()) == pytest.approx(result[name].after, rel=1e-5)
