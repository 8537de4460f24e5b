import collections
import logging

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sparsekit.errors import CalibrationError, LayerError, PatternError, PruningError, SparsekitError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import ERK, Criterion, Global, Magnitude, Random, SparseGPT, Uniform, Wanda, prune


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        collections.OrderedDict(
            conv=nn.Conv2d(3, 8, 3, padding=1),
            norm=nn.BatchNorm2d(8),
            act=nn.ReLU(inplace=True),
            flat=nn.Flatten(),
            body=nn.Sequential(nn.Linear(8 * 16, 32), nn.ReLU(), nn.Linear(32, 32)),
            head=nn.Linear(32, 10),
        )
    )


def batches(count=2):
    torch.manual_seed(1)
    return [torch.randn(4, 3, 4, 4) for _ in range(count)]


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}, [m.training for m in model.modules()]


def assert_untouched(model, before):
    state, training = before
    now = model.state_dict()
    assert now.keys() == state.keys()
    for name, value in now.items():
        assert torch.equal(value.reshape(-1).view(torch.uint8), state[name].reshape(-1).view(torch.uint8)), name
    assert [m.training for m in model.modules()] == training
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert torch.is_grad_enabled()


def test_masks_come_back_by_parameter_name_and_nothing_else_changes():
    model = network()
    (before, _), parameters = snapshot(model), dict(model.named_parameters())
    masks = prune(model, Magnitude(), sparsity=0.9)
    assert list(masks) == ["conv.weight", "body.0.weight", "body.2.weight", "head.weight"]
    for name, value in model.state_dict().items():
        if name in masks:
            keep = masks[name].keep
            assert torch.equal(value, torch.where(keep, before[name], 0.0))
            assert not torch.signbit(value[~keep]).any()
            assert masks[name].nnz == keep.numel() - int(0.9 * keep.numel())
        else:
            assert torch.equal(value, before[name])
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("method", [Magnitude(), Wanda(), SparseGPT()], ids=str)
def test_batches_may_be_a_generator(method):
    masks = [prune(network(), method, sparsity=0.5, batches=given) for given in (batches(), (b for b in batches()))]
    assert all(torch.equal(masks[0][name].keep, masks[1][name].keep) for name in masks[0])


def test_a_layer_sees_the_already_pruned_layers_before_it():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)).double()
    first, second = (layer.weight.detach().clone() for layer in model)
    inputs = torch.randn(64, 8, dtype=torch.float64)
    prune(model, Wanda(), sparsity=0.5, batches=[inputs])
    keep = Unstructured().select(first.abs() * inputs.norm(dim=0), 0.5, by_row=True)
    hidden = inputs @ (first * keep).T
    expected = Unstructured().select(second.abs() * hidden.norm(dim=0), 0.5, by_row=True)
    assert torch.equal(model[1].weight, second * expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", [Magnitude(), Random(), Wanda(), SparseGPT()], ids=str)
def test_dtype_stays(method, dtype):
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4)).to(dtype)
    masks = prune(model, method, sparsity=0.5, batches=[torch.randn(8, 16, dtype=dtype)])
    for name, value in model.named_parameters():
        assert value.dtype == dtype
        if name in masks:
            assert value.isfinite().all()
            assert not value[~masks[name].keep].any()


def test_tied_weights_are_pruned_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Embedding(6, 6))
    model[1].weight = model[2].weight = model[0].weight
    masks = prune(model, Magnitude(), sparsity=0.5, layers=lambda *_: True)
    assert list(masks) == ["0.weight"]
    assert masks["0.weight"].nnz == 18
    assert model[1].weight is model[0].weight is model[2].weight


def test_channels_last_weights():
    model = nn.Sequential(nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    before = model[0].weight.detach().clone()
    keep = prune(model, Magnitude(), Block(4, 4), 0.5)["0.weight"].keep
    assert torch.equal(model[0].weight, before * keep)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_one_layer_as_the_model():
    model = nn.Linear(8, 4)
    assert list(prune(model, Wanda(), NM(2, 4), batches=[torch.randn(2, 8)])) == ["weight"]


def test_layers_without_weights():
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 0))
    for pattern in (Unstructured(), Block(2, 2)):
        assert [mask.nnz for mask in prune(model, Magnitude(), pattern, 0.5).values()] == [0, 0]


def test_choose_layers_by_function_and_by_name():
    seen = []
    masks = prune(network(), Magnitude(), sparsity=0.5, layers=lambda name, m: seen.append((name, m)) or "body" in name)
    assert list(masks) == ["body.0.weight", "body.2.weight"]
    assert [name for name, _ in seen] == ["conv", "body.0", "body.2", "head"]
    assert list(prune(network(), Magnitude(), sparsity=0.5, layers=iter(["head", "conv"]))) == [
        "conv.weight",
        "head.weight",
    ]


def test_global_equals_a_sort_of_all_weights():
    model = network()
    weights = torch.cat([p.detach().abs().reshape(-1) for n, p in model.named_parameters() if p.dim() > 1])
    masks = prune(model, Magnitude(), sparsity=0.8, allocation=Global())
    kept = torch.cat([mask.keep.reshape(-1) for mask in masks.values()])
    expected = torch.zeros_like(kept)
    expected[weights.sort(descending=True, stable=True).indices[: len(weights) - int(0.8 * len(weights))]] = True
    assert torch.equal(kept, expected)


def test_global_ranks_blocks_by_their_sums():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 12))
    pattern = Block(4, 4)
    sums = torch.cat([pattern.pool(layer.weight.detach().abs()).reshape(-1) for layer in model])
    masks = prune(model, Magnitude(), pattern, 0.5, allocation=Global())
    kept = torch.cat([pattern.pool(mask.keep.float()).reshape(-1) for mask in masks.values()]) > 0
    assert torch.equal(kept, sums >= sums.sort().values[5])


def test_global_with_statistics_ranks_the_model_as_it_is():
    class Energy(Criterion):
        needs = Wanda.needs

        def score(self, weight, stats):
            return Wanda().score(weight, stats)

    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    inputs = torch.randn(16, 8)
    first, second = (layer.weight.detach().clone() for layer in model)
    scores = [first.abs() * inputs.norm(dim=0), second.abs() * (inputs @ first.T).norm(dim=0)]
    cut = torch.cat([s.reshape(-1) for s in scores]).sort().values[64]
    masks = prune(model, Energy(), sparsity=0.5, allocation=Global(), batches=[inputs])
    assert [torch.equal(mask.keep, s >= cut) for mask, s in zip(masks.values(), scores)] == [True, True]


def test_global_may_empty_a_layer_and_says_so(caplog):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    with caplog.at_level(logging.WARNING, "sparsekit"):
        masks = prune(model, Magnitude(), sparsity=0.5, allocation=Global())
    assert [mask.nnz for mask in masks.values()] == [0, 16]
    assert "1 of 2 layers lose every unit, and let nothing of their inputs through: 0.weight (4, 4)" in caplog.text


def test_all_layers_that_collapse_are_counted_and_named(caplog):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
        model[2].weight.mul_(1e-3)
    with caplog.at_level(logging.WARNING, "sparsekit"):
        prune(nn.Linear(4, 4), Magnitude(), Block(2, 2), 0.75)
        assert not caplog.records
        prune(model, Magnitude(), Block(2, 2), 10 / 16, allocation=Global())
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 3 layers lose every unit")
    assert record.getMessage().endswith(": 0.weight (4, 4), 2.weight (4, 6)")


def test_erk_with_a_solver():
    masks = prune(network(), SparseGPT(), sparsity=0.5, allocation=ERK(), batches=batches())
    total = sum(mask.keep.numel() for mask in masks.values())
    assert abs(sum(mask.nnz for mask in masks.values()) - total / 2) <= len(masks)


def test_what_a_pattern_cannot_cover_is_reported(caplog):
    model = nn.Sequential(nn.Linear(10, 18), nn.Linear(18, 3))
    with caplog.at_level(logging.INFO, "sparsekit"):
        masks = prune(model, Magnitude(), Block(4, 4), 0.5)
    assert masks["0.weight"].remainder.rows == masks["0.weight"].remainder.columns == 2
    assert "0.weight (18, 10): 2 rows and 2 columns kept dense" in caplog.text
    assert "1.weight (3, 18): no whole unit of Block(4, 4) fits, so it stays dense" in caplog.text
    assert masks["1.weight"].keep.all()


def test_progress_is_shown_on_request(capsys):
    prune(network(), Magnitude(), sparsity=0.5, progress=True)
    prune(network(), Magnitude(), sparsity=0.5)
    assert "Traceback" not in capsys.readouterr().out


def poisoned(value=torch.nan):
    model = network()
    with torch.no_grad():
        model.body[2].weight[1, 2] = value
    return model


def int8():
    model = network()
    model.head.weight = nn.Parameter(torch.ones(10, 32, dtype=torch.int8), requires_grad=False)
    return model


def parametrized():
    model = network()
    parametrizations.weight_norm(model.head)
    return model


BAD = {
    "sparsity 1": (network, PatternError, r"\[0, 1\), got 1", {"sparsity": 1.0}),
    "sparsity below 0": (network, PatternError, r"\[0, 1\), got -0\.5", {"sparsity": -0.5}),
    "no sparsity": (network, PatternError, r"\[0, 1\), got None", {}),
    "two sparsities": (network, PatternError, "fixes its own sparsity", {"pattern": NM(2, 4), "sparsity": 0.7}),
    "NaN": (poisoned, LayerError, r"body\.2\.weight: expected finite .* 1 NaN", {"sparsity": 0.5}),
    "infinite": (lambda: poisoned(torch.inf), LayerError, r"body\.2\.weight", {"sparsity": 0.5}),
    "int8": (int8, LayerError, r"head\.weight: expected a float32.* got torch\.int8", {"sparsity": 0.5}),
    "parametrized": (parametrized, LayerError, r"head\.weight: expected a parameter", {"sparsity": 0.5}),
    "no batches": (network, CalibrationError, "needs batches .* got None", {"method": SparseGPT(), "sparsity": 0.5}),
    "criterion without": (network, CalibrationError, "needs batches .* None", {"method": Wanda(), "sparsity": 0.5}),
    "empty": (network, CalibrationError, "got an empty list", {"method": Wanda(), "sparsity": 0.5, "batches": []}),
    "one tensor": (
        network,
        CalibrationError,
        "got one Tensor",
        {"method": Wanda(), "sparsity": 0.5, "batches": torch.randn(4, 3, 4, 4)},
    ),
    "refused": (
        network,
        CalibrationError,
        r"batches\[2\]: .* got float32 \(4, 3, 5, 5\), and the model raised RuntimeError",
        {"method": SparseGPT(), "sparsity": 0.5, "batches": [*batches(), torch.randn(4, 3, 5, 5)]},
    ),
    "NaN batches": (
        network,
        CalibrationError,
        r"conv\.weight: expected finite inputs",
        {"method": SparseGPT(), "sparsity": 0.5, "batches": [torch.full((1, 3, 4, 4), torch.nan)]},
    ),
    "unknown layer": (
        network,
        LayerError,
        r"got 'body\.1x', which is not there; did you mean 'body\.\d'",
        {"sparsity": 0.5, "layers": ["head", "body.1x"]},
    ),
    "other layer": (network, LayerError, "got 'norm', a BatchNorm2d", {"sparsity": 0.5, "layers": ["norm"]}),
    "no layer": (network, LayerError, "got none of the 4", {"sparsity": 0.5, "layers": lambda *_: False}),
    "no layer at all": (nn.ReLU, LayerError, "got none of the 0", {"sparsity": 0.5}),
    "no module": (
        lambda: network().forward,
        LayerError,
        r"expected a torch\.nn\.Module, got method",
        {"sparsity": 0.5},
    ),
    "a class": (network, PruningError, r"got .*; write Magnitude\(\.\.\.\)", {"method": Magnitude, "sparsity": 0.5}),
    "no pattern": (network, PruningError, "pattern: expected a Pattern, got '2:4'", {"pattern": "2:4"}),
    "no allocation": (network, PruningError, "allocation: expected", {"sparsity": 0.5, "allocation": Global}),
    "N:M globally": (network, PruningError, "nothing to share out", {"pattern": NM(2, 4), "allocation": Global()}),
    "solver globally": (
        network,
        PruningError,
        "is a solver, which has none",
        {"method": SparseGPT(), "sparsity": 0.5, "allocation": Global(), "batches": batches()},
    ),
    "rows globally": (
        network,
        PruningError,
        "compare within a row only",
        {"method": Wanda(), "sparsity": 0.5, "allocation": Global(), "batches": batches()},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_and_the_model_stays(case):
    build, error, match, options = BAD[case]
    model = build()
    before = snapshot(model) if isinstance(model, nn.Module) else None
    with pytest.raises(error, match=match) as caught:
        prune(model, **{"method": Magnitude(), **options})
    assert isinstance(caught.value, SparsekitError)
    if before:
        assert_untouched(model, before)


def test_meta_and_lazy_models():
    with pytest.raises(LayerError, match=r"conv\.weight: .* meta device"):
        prune(network().to("meta"), Magnitude(), sparsity=0.5)
    with pytest.raises(LayerError, match=r"0\.weight: .* a lazy one"):
        prune(nn.Sequential(nn.LazyLinear(4)), Magnitude(), sparsity=0.5)


class FailsAtTheHead(SparseGPT):
    error = RuntimeError

    def solve(self, problem):
        if problem.name == "head.weight":
            raise self.error("half way")
        return super().solve(problem)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_half_way_leaves_the_model_as_it_was(error, monkeypatch):
    monkeypatch.setattr(FailsAtTheHead, "error", error)
    model = network().train()
    before = snapshot(model)
    with pytest.raises(error, match="half way"):
        prune(model, FailsAtTheHead(), sparsity=0.5, batches=batches())
    assert_untouched(model, before)


def test_scores_that_are_not_finite_name_the_layer():
    class Log(Criterion):
        def score(self, weight, stats):
            return weight.abs().log() * (torch.nan if stats.name == "head.weight" else 1)

    model = network()
    before = snapshot(model)
    with pytest.raises(PruningError, match=r"head\.weight: expected finite scores of shape \(10, 32\)"):
        prune(model, Log(), sparsity=0.5)
    assert_untouched(model, before)


def test_calibration_runs_in_eval_mode_and_leaves_buffers_alone():
    model = network().train()
    before, training = snapshot(model)
    prune(model, Wanda(), sparsity=0.5, batches=batches(), allocation=Uniform())
    assert [m.training for m in model.modules()] == training
    assert torch.equal(model.norm.running_mean, before["norm.running_mean"])
    assert torch.equal(model.norm.num_batches_tracked, before["norm.num_batches_tracked"])
