"""Groups of units that go together: against groups written by hand, and against networks that were really cut."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import LayerError, PruningError
from sparsekit.patterns import NM, Block, Channel, Filter, Head, Unstructured
from sparsekit.pruning import (
    AMC,
    ERK,
    Global,
    Group,
    IterativeSNIP,
    Magnitude,
    SparseGPT,
    Wanda,
    coupled,
    prune,
    silence,
)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first, self.norm1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.second, self.norm2 = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm0(self.stem(x)))
        y = self.norm2(self.second(self.depth(torch.relu(self.norm1(self.first(x))))))
        return self.head(torch.relu(x + y).mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self, heads=4):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(24, 24) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def shaken(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else torch.randn_like(value))
    return model.eval().double()


IMAGE, TOKENS = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 5, 24).double()


def names(groups):
    return [{name.removesuffix(".weight") for name in group.names} for group in groups]


def test_groups_are_those_written_by_hand():
    model = shaken(Residual())
    assert names(coupled(model, IMAGE, Filter())) == [{"stem", "second"}, {"first", "depth"}]
    assert names(coupled(model, IMAGE, Channel(), layers=["first", "head"])) == [{"first", "head"}]
    assert (
        names(coupled(shaken(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))), torch.randn(1, 4).double(), Filter()))
        == []
    )
    heads = coupled(shaken(Attention()), TOKENS, Head(6))
    assert heads == (
        Group(
            (
                ("query.weight", Head(6)),
                ("key.weight", Head(6)),
                ("value.weight", Head(6)),
                ("out.weight", Head(6, 1)),
            )
        ),
    )
    assert names(coupled(shaken(Attention()), TOKENS, Filter())) == [{"query", "key"}]
    assert names(coupled(shaken(Attention()), TOKENS, Block(6, 24), layers=["query", "key", "value"])) == [
        {"query", "key", "value"}
    ]
    assert coupled(shaken(Attention()), TOKENS, Head(5)) == ()


def test_heads_of_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    groups = coupled(model, {"input_ids": torch.arange(10).reshape(2, 5)}, Head(4))
    for number, group in enumerate(groups):
        start = f"encoder.layer.{number}.attention."
        inputs = [(f"{start}self.{word}.weight", Head(4)) for word in ("query", "key", "value")]
        assert group.members == (*inputs, (f"{start}output.dense.weight", Head(4, 1)))
    assert len(groups) == 2


def hand_scores(model, members):
    """The summed magnitude of each filter."""
    return sum(getattr(model, name).weight.detach().abs().double().flatten(1).sum(dim=1) for name in members)


def test_the_summed_scores_decide():
    model = shaken(Residual())
    before = copy.deepcopy(model)
    layers = ["stem", "first", "depth", "second"]
    masks = prune(
        model, Magnitude(), Filter(), 0.5, layers=layers, groups=coupled(model, IMAGE, Filter(), layers=layers)
    )
    for members in (["stem", "second"], ["first", "depth"]):
        scores = hand_scores(before, members)
        wanted = scores >= scores.sort().values[len(scores) // 2]
        for name in members:
            keep = masks[f"{name}.weight"].keep
            assert torch.equal(keep.flatten(1).all(dim=1), wanted)
            assert torch.equal(keep.flatten(1).any(dim=1), wanted)
            assert torch.equal(getattr(model, name).weight != 0, keep)


@pytest.mark.parametrize("allocation", [Global(), ERK()])
def test_other_allocations_keep_the_groups(allocation):
    model = shaken(Residual())
    groups = coupled(model, IMAGE, Filter(), layers=["stem", "first", "depth", "second"])
    masks = prune(
        model,
        Magnitude(),
        Filter(),
        0.5,
        allocation=allocation,
        layers=["stem", "first", "depth", "second"],
        groups=groups,
    )
    gone = 0
    for group in groups:
        rows = [masks[name].keep.flatten(1).any(dim=1) for name in group.names]
        assert all(torch.equal(row, rows[0]) for row in rows)
        gone += int((~rows[0]).sum())
    if allocation == Global():
        assert gone == 10  # half of the 8 + 12 units that go as one


def test_rounds_keep_the_groups():
    model = shaken(Residual())
    groups = coupled(model, IMAGE, Filter(), layers=["stem", "second", "first", "depth"])
    masks = prune(
        model,
        IterativeSNIP(),
        Filter(),
        0.5,
        allocation=Global(),
        layers=["stem", "second", "first", "depth"],
        groups=groups,
        batches=[IMAGE],
        loss_fn=lambda model, batch: model(batch).square().mean(),
    )
    for group in groups:
        rows = [masks[name].keep.flatten(1).any(dim=1) for name in group.names]
        assert all(torch.equal(row, rows[0]) for row in rows)


def kept_rows(masks, name):
    return masks[f"{name}.weight"].keep.flatten(1).any(dim=1).nonzero().flatten()


def cut(layer, rows=None, columns=None):
    """The layer with some of its outputs and inputs, as a new one."""
    small = copy.deepcopy(layer)
    parameters = dict(layer.named_parameters())
    for name, value in (*parameters.items(), *layer.named_buffers()):
        part = value.detach()
        part = part[rows] if rows is not None and part.dim() >= 1 else part
        part = part[:, columns] if columns is not None and part.dim() >= 2 else part
        setattr(small, name, nn.Parameter(part.clone()) if name in parameters else part.clone())
    return small


def test_a_masked_mlp_is_the_cut_one():
    model = shaken(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)))
    x = torch.randn(4, 5).double()
    masks = prune(model, Magnitude(), Filter(), 0.5, layers=["0", "2"])
    masked = model(x)
    silence(model, masks, x)
    assert not torch.allclose(model(x), masked)  # the biases spoke
    one, two = kept_rows(masks, "0"), kept_rows(masks, "2")
    small = nn.Sequential(cut(model[0], one), nn.ReLU(), cut(model[2], two, one), nn.ReLU(), cut(model[4], None, two))
    torch.testing.assert_close(small(x), model(x))


def test_a_masked_residual_block_is_the_cut_one():
    model = shaken(Residual())
    layers = ["stem", "first", "depth", "second"]
    masks = prune(
        model, Magnitude(), Filter(), 0.5, layers=layers, groups=coupled(model, IMAGE, Filter(), layers=layers)
    )
    zeroed = silence(model, masks, IMAGE)
    stream, inner = kept_rows(masks, "stem"), kept_rows(masks, "first")
    assert int(zeroed["norm2.bias"].sum()) == 8 - len(stream)
    small = copy.deepcopy(model)
    small.stem, small.norm0 = cut(model.stem, stream), cut(model.norm0, stream)
    small.first, small.norm1 = cut(model.first, inner, stream), cut(model.norm1, inner)
    small.depth = cut(model.depth, inner)
    small.depth.groups = len(inner)
    small.second, small.norm2 = cut(model.second, stream, inner), cut(model.norm2, stream)
    small.head = cut(model.head, None, stream)
    torch.testing.assert_close(small(IMAGE), model(IMAGE))


def test_masked_heads_are_the_cut_ones():
    model = shaken(Attention())
    masks = prune(model, Magnitude(), Head(6), 0.5, groups=coupled(model, TOKENS, Head(6)))
    rows = kept_rows(masks, "query")
    columns = masks["out.weight"].keep.any(dim=0).nonzero().flatten()
    assert torch.equal(rows, columns)
    assert masks["out.weight"].pattern == Head(6, 1)
    small = Attention(heads=2)
    for name in ("query", "key", "value"):
        setattr(small, name, cut(getattr(model, name), rows))
    small.out = cut(model.out, None, rows)
    torch.testing.assert_close(small(TOKENS), model(TOKENS))


def test_silence_leaves_what_others_still_write():
    model = shaken(Residual())
    masks = prune(model, Magnitude(), Filter(), 0.5, layers=["stem", "first"])
    before = copy.deepcopy(model.state_dict())
    zeroed = silence(model, masks, IMAGE)
    assert zeroed == {}  # the block still writes to the stream, the depthwise layer still has its weights
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    masks = prune(model, Magnitude(), Filter(), 0.5, layers=["stem", "second"])
    both = ~(masks["stem.weight"].keep.flatten(1).any(dim=1) | masks["second.weight"].keep.flatten(1).any(dim=1))
    assert 0 < int(both.sum()) < 4  # the two were pruned without regard for each other
    assert torch.equal(silence(model, masks, IMAGE)["norm0.bias"], both)
    with pytest.raises(LayerError, match="'nothing'"):
        silence(model, {"nothing": masks["stem.weight"]}, IMAGE)


def rows_of(*members):
    return [Group(tuple((f"{name}.weight", Filter()) for name in members))]


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("is a solver", {"method": SparseGPT()}),
        ("is a search", {"method": AMC()}),
        ("compare within a row only", {"method": Wanda()}),
        ("as many units as each other", {"groups": rows_of("stem", "first")}),
        ("weights that are pruned, got 'other.weight'", {"groups": rows_of("stem", "other")}),
        ("in one group, got it in two", {"groups": rows_of("stem", "second") + rows_of("stem", "second")}),
        ("by itself", {"groups": [Group((("stem.weight", NM(2, 4)),))]}),
        ("expected Group values", {"groups": [("stem.weight", "second.weight")]}),
    ],
)
def test_what_makes_no_sense_is_refused(match, arguments):
    model = shaken(Residual())
    before = copy.deepcopy(model.state_dict())
    settings = {"method": Magnitude(), "groups": rows_of("stem", "second"), "batches": [IMAGE], **arguments}
    with pytest.raises(PruningError, match=match):
        prune(model, pattern=Filter(), sparsity=0.5, loss_fn=lambda m, b: m(b).mean(), **settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_coupling_needs_whole_outputs_or_inputs():
    with pytest.raises(PruningError, match="whole outputs or whole inputs"):
        coupled(shaken(Residual()), IMAGE, Unstructured())
