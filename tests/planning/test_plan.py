import copy
import json
import pickle

import pytest
import torch
from numerics import assert_product
from torch import nn

import sparsekit as sk
from sparsekit.nn import SparseLinear
from sparsekit.planning import compile, plan


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8), nn.Dropout(0.5))


def pruned(sparsity=0.9):
    model = network()
    return model, sk.prune(model, sk.Magnitude(), sparsity=sparsity)


def snapshot(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, {name: module.training for name, module in model.named_modules()}


def assert_same(model, before):
    state, modes = before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_a_plan_and_its_application_leave_the_model_alone(measured, training):
    model, _ = pruned()
    model.train(training)
    before = snapshot(model)
    fast = plan(model, torch.randn(6, 20)).apply()
    assert_same(model, before)
    assert fast is not model
    assert isinstance(fast[0], SparseLinear)
    assert {module.training for module in fast.modules()} == {training}
    assert fast[0].layer_name == "0"
    assert fast[0].kernel_by_batch == {6: "csr_mv_native"}


def test_the_compiled_model_computes_the_same(measured):
    model, _ = pruned()
    model.eval()
    fast = compile(model, torch.randn(6, 20))
    for batch in (0, 1, 5, 6, 70):
        x = torch.randn(batch, 20)
        with torch.inference_mode():
            hidden = torch.relu(model[0](x))
            torch.testing.assert_close(fast[0](x), hidden)
            assert_product(fast[2](hidden), hidden, model[2].weight, model[2].bias)


def test_given_masks_are_applied_whether_or_not_the_weights_are_zero(measured):
    model = network().eval()
    masks = sk.prune(copy.deepcopy(model), sk.Magnitude(), sparsity=0.9)
    x = torch.randn(6, 20)
    fast = compile(model, x, masks)
    assert torch.equal(fast[0].weight, model[0].weight * masks["0.weight"].keep)
    keep = {"2.weight": masks["2.weight"].keep}
    fast = compile(model, x, keep)
    assert isinstance(fast[0], nn.Linear)
    assert torch.equal(fast[2].weight, model[2].weight * keep["2.weight"])


def test_masks_of_layers_that_stay_are_applied_too(measured):
    times, _ = measured
    for name in ("csr_mv_native", "csr_mm_native", "csr_conv_native"):
        times[name] = 99.0
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)).eval()
    masks = {name: torch.rand_like(p) > 0.5 for name, p in model.named_parameters() if p.dim() > 1}
    fast = compile(model, torch.randn(2, 1, 4, 4), masks)
    assert type(fast[0]) is nn.Conv2d
    assert torch.equal(fast[0].weight, model[0].weight * masks["0.weight"])
    assert type(fast[2]) is nn.Linear
    assert torch.equal(fast[2].weight, model[2].weight * masks["2.weight"])


def test_each_kind_of_layer_is_measured_once(measured):
    _, jobs = measured
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    sk.prune(model, sk.Magnitude(), sparsity=0.5)
    x = torch.randn(6, 16)
    plan(model, x)
    assert len(jobs) == 1
    plan(model, x)
    assert len(jobs) == 1, "the second plan reads the cache"
    plan(model, torch.randn(7, 16))
    assert len(jobs) == 2
    plan(model.double(), x.double())
    assert len(jobs) == 3
    model = nn.Sequential(nn.Linear(16, 16, bias=False))
    sk.prune(model, sk.Magnitude(), pattern=sk.Block(4, 4), sparsity=0.5)
    plan(model, x)
    assert len(jobs) == 4
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        plan(model, x)
    finally:
        torch.set_num_threads(before)
    assert len(jobs) == 5


class Shared(nn.Module):
    """A Linear that is called twice, one whose weight an embedding shares, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.twice = nn.Linear(16, 16)
        self.alias = self.twice
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.spare = nn.Linear(3, 3)

    def forward(self, ids, scale=None):
        x = self.embed(ids)
        x = self.alias(self.twice(x))
        return self.head(x if scale is None else x * scale)


def test_shared_tied_and_idle_layers(measured):
    torch.manual_seed(0)
    model = Shared().eval()
    with torch.no_grad():
        for layer in (model.twice, model.head):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.8)
    ids = torch.randint(0, 32, (2, 5))
    for example in (ids, (ids,), (ids, torch.ones(())), {"ids": ids}):
        found = {layer.name: layer for layer in plan(model, example).layers}
        assert found["twice"].calls == {10: 2}
        assert found["spare"].reason == "the example inputs never call it"
    fast = plan(model, ids).apply()
    assert fast.alias is fast.twice
    assert isinstance(fast.twice, SparseLinear)
    assert isinstance(fast.head, SparseLinear)
    assert torch.equal(fast.embed.weight, model.embed.weight)
    assert torch.allclose(fast(ids), model(ids), atol=1e-5)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_linear_with_a_forward_of_its_own_stays(measured):
    model = nn.Sequential(Doubling(4, 4))
    (layer,) = plan(model, torch.randn(2, 4)).layers
    assert layer.reason == "Doubling has a forward of its own"
    assert layer.chosen is None


@pytest.mark.parametrize(
    ("layer", "x"), [(nn.Linear(4, 4), torch.ones(2, 4)), (nn.Conv2d(4, 4, 1), torch.ones(2, 4, 3, 3))]
)
def test_a_forward_of_its_own_takes_what_it_likes(measured, layer, x):
    class Other(type(layer)):
        def forward(self, pairs):
            return pairs["x"]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.other = layer
            self.other.__class__ = Other

        def forward(self, x):
            return self.other({"x": x}) + self.other(pairs={"x": x})

    (found,) = plan(Outer(), x).layers
    assert found.reason == "Other has a forward of its own"


def test_a_linear_that_others_have_changed_stays(measured):
    patched, hooked = nn.Linear(4, 4), nn.Linear(4, 4)
    patched.forward = lambda x: 2 * nn.Linear.forward(patched, x)
    hooked.register_forward_hook(lambda module, args, y: 3 * y)
    model = nn.Sequential(patched, hooked)
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(torch.eye(4))
    reasons = [layer.reason for layer in plan(model, torch.randn(2, 4)).layers]
    assert reasons == ["Linear has a forward of its own", "it has hooks, which a packed layer would lose"]


def test_a_transformer_calls_its_packed_layers(measured, monkeypatch):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    linears = ["linear1", "linear2"]
    sk.prune(model, sk.Magnitude(), sparsity=0.9, layers=linears)
    x = torch.randn(2, 5, 16)
    fast = compile(model, x)
    called = []
    for name in linears:
        packed = fast.get_submodule(name)
        monkeypatch.setattr(
            packed, "forward", lambda x, packed=packed: called.append(1) or SparseLinear.forward(packed, x)
        )
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5)
    assert len(called) == 2


def test_inputs_by_keyword_and_random_numbers_are_left_alone(measured):
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = pruned()[0][0]

        def forward(self, x):
            return self.linear(input=x)

    state = torch.get_rng_state()
    model = ByKeyword()
    torch.set_rng_state(state)
    x = torch.ones(3, 20)
    fast = compile(model, x)
    assert isinstance(fast.linear, SparseLinear)
    assert torch.allclose(fast(x), model(x), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tied_weight_has_one_mask(measured):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    keep = torch.rand(8, 8) > 0.8
    found = plan(model, torch.randn(2, 8), {"0.weight": keep})
    assert [layer.mask.nnz for layer in found.layers] == [int(keep.sum())] * 2
    with pytest.raises(sk.MaskError, match=r"1\.weight: expected one mask for a tied weight"):
        plan(model, torch.randn(2, 8), {"0.weight": keep, "1.weight": ~keep})


def test_a_model_that_is_a_linear(measured):
    linear = nn.Linear(20, 8)
    masks = sk.prune(linear, sk.Magnitude(), sparsity=0.9)
    assert isinstance(compile(linear, torch.randn(3, 20)), SparseLinear)
    assert isinstance(compile(linear, torch.randn(3, 20), masks), SparseLinear)


def test_a_model_without_what_can_be_fused_runs_once(measured):
    model = nn.Sequential(nn.Linear(20, 32), nn.Linear(32, 8))
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    found = plan(model, torch.randn(2, 20))
    assert len(runs) == 1
    assert (found.order, found.seconds) == (None, {})


def test_a_batch_of_none_is_not_measured(measured):
    _, jobs = measured
    model, _ = pruned()
    for layer in plan(model, torch.randn(0, 20)).layers:
        assert layer.chosen is None
        assert layer.reason == "the example inputs call it with empty batches only"
    assert jobs == []


def test_compiled_models_can_be_copied_stored_and_compiled_again(measured, tmp_path):
    model, _ = pruned()
    model.eval()
    x = torch.randn(6, 20)
    fast = compile(model, x)
    wanted = fast(x)
    sk.save(fast, tmp_path / "fast.safetensors")
    other = compile(network().eval(), x, pruned()[1])
    other.load_state_dict(fast.state_dict())
    copies = (
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        sk.load(tmp_path / "fast.safetensors", into=model),
        compile(fast, x),
        other,
    )
    for again in copies:
        assert torch.equal(again(x), wanted)
    graph = torch.compile(fast, fullgraph=True, backend="eager")
    assert torch.equal(graph(x), wanted)


def test_a_real_measurement_names_the_kernels_that_run():
    model, _ = pruned()
    for layer in plan(model, torch.randn(6, 20)).layers:
        assert layer.dense is not None
        assert layer.eager > 0
        assert layer.dense.seconds <= layer.eager


def test_cached_times_without_the_layer_as_it_is_are_measured_again(measured, cache):
    _, jobs = measured
    linear, x = nn.Linear(20, 8), torch.randn(3, 20)
    plan(linear, x)
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "times": {key: {"other": 1.0} for key in content["times"]}}))
    plan(linear, x)
    assert len(jobs) == 2


def test_a_model_compiled_in_inference_mode_can_be_trained(measured):
    model, _ = pruned()
    model.insert(0, nn.LayerNorm(20))
    x = torch.randn(6, 20)
    with torch.inference_mode():
        fast = compile(model, x)
    assert isinstance(fast[1], SparseLinear)
    fast(x).square().sum().backward()
    assert fast[0].weight.grad.abs().sum() > 0
    assert fast[1].bias.grad is not None
    assert {p.requires_grad for p in fast.parameters()} == {True}
