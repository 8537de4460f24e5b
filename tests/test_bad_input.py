"""Every bad input gets one error of the project's own, which names what was expected, what came and where."""

import copy

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.kernels.native import extension

X = torch.randn(4, 16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))


def broken(value):
    model = network()
    with torch.no_grad():
        model[2].weight[1, 1] = value
    return model


def integer_weight():
    model = network()
    model[0].weight = nn.Parameter(torch.ones(12, 16, dtype=torch.int8), requires_grad=False)
    return model


def prune(**options):
    options = {"method": sk.Magnitude(), "sparsity": 0.5, **options}
    return lambda model: sk.prune(model, options.pop("method"), **options)


CASES = {
    "sparsity of 1": (network, prune(sparsity=1.0), sk.PatternError, r"\[0, 1\), got 1\.0"),
    "sparsity below 0": (network, prune(sparsity=-0.1), sk.PatternError, r"got -0\.1"),
    "sparsity NaN": (network, prune(sparsity=float("nan")), sk.PatternError, "got nan"),
    "no sparsity": (network, prune(sparsity=None), sk.PatternError, "got None"),
    "N above M": (network, lambda _: sk.NM(5, 4), sk.PatternError, "n=5, m=4"),
    "N:M and a sparsity": (network, prune(pattern=sk.NM(2, 4), sparsity=0.9), sk.PatternError, r"0\.5.*got 0\.9"),
    "empty block": (network, lambda _: sk.Block(0, 4), sk.PatternError, "0 x 4"),
    "NaN weight": (lambda: broken(float("nan")), prune(), sk.LayerError, r"2\.weight"),
    "infinite weight": (lambda: broken(float("inf")), prune(), sk.LayerError, r"2\.weight"),
    "solver without batches": (network, prune(method=sk.SparseGPT()), sk.CalibrationError, "needs batches.*None"),
    "criterion without batches": (network, prune(method=sk.Wanda()), sk.CalibrationError, "needs batches.*None"),
    "no batch": (network, prune(method=sk.Wanda(), batches=[]), sk.CalibrationError, "empty"),
    "empty batch": (network, prune(method=sk.Wanda(), batches=[X[:0]]), sk.CalibrationError, "none"),
    "refused batch": (
        network,
        prune(method=sk.Wanda(), batches=[X.T]),
        sk.CalibrationError,
        r"batches\[0\].*\(16, 4\)",
    ),
    "batches that are a number": (network, prune(method=sk.Wanda(), batches=5), sk.CalibrationError, "got one int"),
    "unknown layer": (network, prune(layers=["3"]), sk.LayerError, "'3'"),
    "meta model": (lambda: network().to("meta"), prune(), sk.LayerError, "meta"),
    "int8 weight": (integer_weight, prune(), sk.LayerError, r"0\.weight.*int8"),
    "int8 weight, plan": (integer_weight, lambda m: sk.plan(m, X), sk.LayerError, r"0\.weight.*int8"),
    "meta model, plan": (lambda: network().to("meta"), lambda m: sk.plan(m, X), sk.LayerError, "meta"),
    "refused inputs": (network, lambda m: sk.plan(m, X.T), sk.InputError, r"example_inputs.*\(16, 4\)"),
    "mask of another shape": (
        network,
        lambda m: sk.compile(m, X, {"0.weight": torch.ones(3, 3).bool()}),
        sk.MaskError,
        r"0\.weight.*\(12, 16\), got \(3, 3\)",
    ),
    "mask on another device": (
        network,
        lambda m: sk.compile(m, X, {"0.weight": torch.ones(12, 16, device="meta").bool()}),
        sk.MaskError,
        r"0\.weight.*cpu.*meta",
    ),
    "mask its pattern does not admit": (
        network,
        lambda m: sk.plan(m, X, {"0.weight": sk.Mask(torch.ones(12, 16).bool(), sk.NM(2, 4))}),
        sk.MaskError,
        r"\(12, 16\).*NM\(2, 4\).*192 kept",
    ),
    "save of no model": (network, lambda _: sk.save("model", "x"), sk.LayerError, "got str"),
    "load of no file": (network, lambda m: sk.load("missing.safetensors", into=m), sk.CheckpointError, "missing"),
}


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("SPARSEKIT_CACHE", "off")


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_is_one_error_and_leaves_the_model(case):
    make, act, error, words = CASES[case]
    model = make()
    before = {name: tensor if tensor.is_meta else tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(sk.SparsekitError, match=words) as caught:
        act(model)
    assert type(caught.value) is error
    for name, tensor in model.state_dict().items():
        assert tensor.is_meta or torch.equal(tensor.nan_to_num(7.0), before[name].nan_to_num(7.0)), name


def test_inputs_of_another_dtype_device_or_size_name_the_layer():
    model = network()
    sk.prune(model, sk.Magnitude(), sparsity=0.9)
    layer = sk.nn.SparseLinear.from_dense(model[0])
    layer.layer_name = "encoder.first"
    for x, word in ((X.double(), "float64"), (X.to("meta"), "meta"), (X[:, :3], r"\(4, 3\)")):
        with torch.no_grad(), pytest.raises(sk.InputError, match=rf"encoder\.first: expected .*{word}"):
            layer(x)


def test_without_the_extension_everything_else_works(monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "MODULE", None)
    monkeypatch.setattr(extension, "WHY_NOT", "the extension sparsekit._C is not built")
    model = network()
    sk.prune(model, sk.Magnitude(), sparsity=0.9)
    found = sk.plan(model, X)
    assert not any(layer.sparse for layer in found.layers)
    packed = copy.deepcopy(model)
    packed[0] = sk.nn.SparseLinear.from_dense(model[0])
    sk.save(packed, tmp_path / "packed.safetensors")
    again = sk.load(tmp_path / "packed.safetensors", into=model)
    assert torch.allclose(again(X), model(X), atol=1e-5)
