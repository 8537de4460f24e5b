import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError
from sparsekit.pruning.calibration import calibrate, survey
from sparsekit.pruning.replay import Replay
from sparsekit.pruning.statistics import Gram, InputNorm, ModelView, input_rows
from sparsekit.pruning.targets import find_targets


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 8)

    def forward(self, x, mask=None):
        query, key, value = self.norm(self.query(x)), self.key(x), self.value(x)
        scores = query @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        return self.out(scores.softmax(-1) @ value) + x


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(3))
        self.head = nn.Linear(8, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, attention_mask=None):
        for layer in self.layers:
            x = layer(x, attention_mask)
        return {"logits": self.head(self.drop(x))}


class Bump(nn.Module):
    """Writes into its input, and returns something else."""

    def forward(self, x):
        x.mul_(2)
        return x.mean()


class InPlace(nn.Module):
    """Writes into what its modules returned and into what they were given."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 4, 1)
        self.late = nn.Conv2d(4, 4, 1)  # gets the tensor that down got, with other values
        self.bump = Bump()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(x)
        y = self.second(x)
        y += x
        y = y - self.bump(y)
        z = self.down(y)
        y.sub_(z)
        y += self.late(y)
        return self.head(self.pool(y).flatten(1))


class Shared(nn.Module):
    """One module called three times, a tied weight, and a part that only some batches reach."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 5)
        self.block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
        self.rare = nn.Linear(5, 5)
        self.mid = nn.Linear(5, 5)
        self.head = nn.Linear(5, 6, bias=False)
        self.head.weight = self.embed.weight
        self.tail = nn.Linear(6, 2)

    def forward(self, tokens, many):
        x = self.embed(tokens)
        for _ in range(3):
            x = self.block(x)
        if many:
            x = self.rare(x)
        return self.tail(self.head(self.block(self.mid(x))))


def encoder_batches():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return [{"x": torch.randn(2, 4, 8), "attention_mask": mask}, {"x": torch.randn(1, 3, 8)}]


CASES = {
    "encoder": (Encoder, encoder_batches),
    "in place": (InPlace, lambda: [torch.randn(2, 2, 5, 5) for _ in range(3)]),
    "shared": (Shared, lambda: [(torch.arange(6), False), (torch.arange(3), True), (torch.arange(2), False)]),
    "plain": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))),
        lambda: [(torch.randn(5, 4),), (torch.randn(2, 3, 4),)],
    ),
}


def naive(model, targets, batches):
    """The statistics of ``targets`` from one plain run of everything."""
    rows = {target.name: [] for target in targets}
    handles = []
    mask = None

    def see(layer, args, name):
        value = args[0]
        if mask is not None and value.shape[:2] == mask.shape:
            value = value[mask.bool()]
        rows[name].append(torch.cat(list(input_rows(layer, value)), dim=1).double())

    for target in targets:
        for layer in target.layers:
            handles.append(layer.register_forward_pre_hook(lambda m, a, name=target.name: see(m, a, name)))
    with torch.no_grad():
        for batch in batches:
            mask = batch.get("attention_mask") if isinstance(batch, dict) else None
            given = copy.deepcopy(batch)
            if isinstance(given, dict):
                model(**given)
            else:
                model(*(given if isinstance(given, tuple) else (given,)))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts, dim=1) for name, parts in rows.items() if parts}


@pytest.mark.parametrize("room", [2 << 30, 600, 0])
@pytest.mark.parametrize("case", CASES)
def test_every_layer_sees_what_a_naive_rerun_gives_it(case, room, monkeypatch):
    """The property that matters: statistics equal those of running the partly pruned model from the start."""
    torch.manual_seed(0)
    build, make = CASES[case]
    model, batches = build().double().eval(), make()
    batches = [
        {k: v.double() if v.is_floating_point() else v for k, v in b.items()}
        if isinstance(b, dict)
        else tuple(v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in b)
        if isinstance(b, tuple)
        else b.double()
        for b in batches
    ]
    monkeypatch.setattr(Replay.__init__, "__defaults__", (room,))
    targets = find_targets(model)
    order = []

    def visit(target, stats):
        with Undisturbed(model):
            rows = naive(model, [target], batches)[target.name]
        torch.testing.assert_close(stats[Gram].sum, rows.transpose(1, 2) @ rows)
        assert stats[Gram].rows == stats[InputNorm].rows == rows.shape[1]
        order.append(target.name)
        target.weight.data.mul_(0.5)

    calibrate(ModelView(model, targets, copy.deepcopy(batches)), (Gram, InputNorm), visit)
    assert sorted(order) == sorted(target.name for target in targets)
    if case == "shared":
        assert [name.split(".")[0] for name in order] == ["block", "rare", "mid", "head", "tail"]


class Undisturbed:
    """Run a model that is being calibrated as if nobody watched: without what calibration put in place."""

    def __init__(self, model):
        self.modules = list(model.modules())

    def __enter__(self):
        self.own = [module.__dict__.pop("forward", None) for module in self.modules]

    def __exit__(self, *exception):
        for module, own in zip(self.modules, self.own):
            if own is not None:
                module.forward = own


def test_survey_sees_the_model_as_it_is():
    torch.manual_seed(0)
    model, batches = Encoder().eval(), encoder_batches()
    targets = find_targets(model)
    found = survey(ModelView(model, targets, batches), (Gram,))
    for name, rows in naive(model, targets, batches).items():
        torch.testing.assert_close(found[name][Gram].sum.double(), rows.transpose(1, 2) @ rows, rtol=1e-4, atol=1e-4)
        assert found[name].name == name


def test_layers_with_the_same_input_share_one_collection():
    stats = {}
    model = Encoder()
    calibrate(
        ModelView(model, find_targets(model), encoder_batches()), (Gram,), lambda t, s: stats.update({t.name: s[Gram]})
    )
    assert stats["layers.1.query.weight"] is stats["layers.1.key.weight"] is stats["layers.1.value.weight"]
    assert stats["layers.1.out.weight"] is not stats["layers.1.value.weight"]


def test_all_runs_together_compute_about_two_forwards(monkeypatch):
    """Order once, then every module once with its final weight: no square of the depth."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    calls = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: (calls.append(1), linear(*args))[1])
    calibrate(ModelView(model, find_targets(model), [torch.randn(2, 4)]), (InputNorm,), lambda *_: None)
    assert len(calls) == 12 + 11  # the last layer's output is never needed


def test_what_is_kept_stays_within_its_room():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))).eval()
    weights = [layer.weight for layer in model]
    with torch.no_grad(), Replay(model, weights, room=100) as replay:  # an output takes 32 bytes
        for weight in weights:
            replay.run([weight], model, 0, torch.randn(2, 4))
            replay.changed(weight)
            assert replay.room == 100 - 32 * len(replay.outputs) >= 0
        assert len(replay.outputs) == 3


def test_a_call_that_is_kept_replaces_those_inside_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4)).eval()
    weights = [layer.weight for layer in (model[0][0], model[0][1], model[1])]
    kept = []
    with torch.no_grad(), Replay(model, weights) as replay:
        for weight in weights:
            replay.run([weight], model, 0, torch.randn(2, 4))
            replay.changed(weight)
            kept.append(len(replay.outputs))
    assert kept == [0, 1, 1]


def test_writing_in_place_does_not_bring_the_square_back(monkeypatch):
    """A module whose output gets written into is computed once more, then copied."""
    model = nn.Sequential(*(nn.Linear(4, 4) if i % 2 else nn.ReLU(inplace=True) for i in range(24)))
    calls = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: (calls.append(1), linear(*args))[1])
    calibrate(ModelView(model, find_targets(model), [torch.randn(2, 4)]), (InputNorm,), lambda *_: None)
    assert len(calls) <= 3 * 12


def test_a_model_that_calls_the_same_block_again_is_not_stopped_early():
    block = nn.Linear(3, 3)
    model = nn.Sequential(block, nn.Tanh(), block)
    rows = []
    calibrate(
        ModelView(model, find_targets(model), [torch.randn(2, 3)]), (Gram,), lambda _, s: rows.append(s[Gram].rows)
    )
    assert rows == [4]


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_left_as_it_was(fail):
    model = Encoder()
    model.layers[1].eval()
    own = model.head.forward = model.head.forward  # somebody else's replacement
    flags = [module.training for module in model.modules()]
    seen = []

    def visit(target, stats):
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
        seen.append(target)
        if fail and len(seen) == 5:
            raise StopHereError

    targets = find_targets(model)
    if fail:
        with pytest.raises(StopHereError):
            calibrate(ModelView(model, targets, encoder_batches()), (Gram,), visit)
    else:
        calibrate(ModelView(model, targets, encoder_batches()), (Gram,), visit)
    assert [module.training for module in model.modules()] == flags
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert [module for module in model.modules() if "forward" in module.__dict__] == [model.head]
    assert model.head.__dict__["forward"] == own


def test_a_layer_that_no_batch_reaches_is_named():
    model = Shared()
    with pytest.raises(CalibrationError, match=r"rare\.weight: expected batches that reach it, got 1 that do not"):
        calibrate(ModelView(model, find_targets(model), [(torch.arange(3), False)]), (Gram,), lambda *_: None)


def test_the_batch_that_the_model_refuses_is_named():
    model = nn.Sequential(nn.Linear(4, 2))
    batches = [torch.randn(2, 4), torch.randn(2, 5)]
    with pytest.raises(CalibrationError, match=r"batches\[1\]: .* got float32 \(2, 5\), and the model raised Runtime"):
        calibrate(ModelView(model, find_targets(model), batches), (Gram,), lambda *_: None)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite_name_the_layer(value):
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(CalibrationError, match=r"0\.weight: expected finite inputs"):
        calibrate(ModelView(model, find_targets(model), [torch.full((2, 4), value)]), (Gram,), lambda *_: None)


def test_batches_without_rows():
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(CalibrationError, match=r"0\.weight: expected inputs from the batches, got none"):
        calibrate(ModelView(model, find_targets(model), [torch.randn(0, 4)]), (Gram,), lambda *_: None)


def test_torch_transformers_run_their_layers():
    """The fused path of torch would skip the hooks, and pack padded batches into nested tensors."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    targets = find_targets(model, lambda name, _: "out_proj" not in name)
    names = []
    batch = {"src": torch.randn(2, 3, 8), "src_key_padding_mask": torch.tensor([[False] * 3, [False, False, True]])}
    calibrate(ModelView(model, targets, [batch]), (Gram,), lambda target, _: names.append(target.name))
    assert names == [f"layers.{i}.linear{j}.weight" for i in (0, 1) for j in (1, 2)]
    with pytest.raises(CalibrationError, match=r"layers\.0\.self_attn\.out_proj\.weight"):
        calibrate(ModelView(model, find_targets(model), [torch.randn(2, 3, 8)]), (Gram,), lambda *_: None)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"input": x}])
def test_every_kind_of_batch(wrap):
    rows = []
    model = nn.Linear(4, 2)
    calibrate(
        ModelView(model, find_targets(model), [wrap(torch.randn(3, 4))]),
        (InputNorm,),
        lambda _, s: rows.append(s[InputNorm].rows),
    )
    assert rows == [3]
