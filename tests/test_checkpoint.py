"""Files: exact, small, and refused in words where they do not fit."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sparsekit import checkpoint
from sparsekit.checkpoint import load, save
from sparsekit.errors import CheckpointError
from sparsekit.formats import CSR, FORMATS, QUANTIZED_FORMATS, Bitmask, Dense
from sparsekit.nn import SparseLinear, replace_module
from tests.weights import FLOATING, PATTERNS, hard_weight, random_mask, random_weight, same_bits

every_format = pytest.mark.parametrize("family", [*FORMATS, *QUANTIZED_FORMATS], ids=lambda f: f.name)


class Model(nn.Module):
    """An embedding tied to the output, one layer used twice, a batch norm with integer state."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 24)
        self.first = nn.Linear(24, 16)
        self.again = nn.ModuleList([self.first, nn.Linear(24, 16, bias=False)])
        self.norm = nn.BatchNorm1d(16)
        self.back = nn.Linear(16, 24)
        self.out = nn.Linear(24, 30, bias=False)
        self.out.weight = self.embedding.weight
        self.register_buffer("scale", torch.arange(24.0).expand(1, -1))

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.first(x) + self.again[0](x) + self.again[1](x)
        return self.out(self.back(self.norm(x)) * self.scale)


def dense_model(seed=0):
    torch.manual_seed(seed)
    return Model().eval()


def compiled_model(family=CSR, seed=0, dtype=torch.float32):
    model = copy.deepcopy(dense_model(seed)).to(dtype)
    for name in ("first", "again.1", "back"):
        linear = model.get_submodule(name)
        shape = tuple(linear.weight.shape)
        hard = name == "back" and family in FORMATS
        linear.weight.data = hard_weight(shape, dtype, seed) if hard else linear.weight.data
        pattern = next(p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None)
        layer = SparseLinear.from_dense(linear, random_mask(shape, pattern, 0.7), family)
        layer.layer_name, layer.kernel_by_batch = name, {128: "some_kernel"}
        replace_module(model, name, layer)
    return model


def assert_same_model(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for key, value in left.items():
        if not isinstance(value, torch.Tensor):
            assert value == right[key]
        elif value.is_floating_point():
            assert same_bits(value, right[key]), key
        else:
            assert value.dtype == right[key].dtype
            assert torch.equal(value, right[key]), key


@every_format
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_round_trip_is_exact(family, dtype, tmp_path):
    model, into = compiled_model(family, dtype=dtype), dense_model(1).to(dtype)
    before = copy.deepcopy(into)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", into=into)
    assert_same_model(loaded, model)
    assert_same_model(into, before)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert loaded.first is loaded.again[0]
    assert loaded.out.weight is loaded.embedding.weight
    assert (loaded.back.layer_name, loaded.back.kernel_by_batch) == ("back", {128: "some_kernel"})
    assert not any(m.training for m in loaded.modules())


def test_the_loaded_model_runs_and_is_independent(tmp_path):
    model, tokens = compiled_model(), torch.arange(7)
    model.back = SparseLinear.from_dense(nn.Linear(16, 24), random_mask((24, 16), PATTERNS[0], 0.5), CSR)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m", into=dense_model(1))
    assert same_bits(loaded(tokens).detach(), model(tokens).detach())
    loaded.first.packed_values.data.zero_()
    assert torch.count_nonzero(model.first.weight)


def test_loads_into_models_compiled_otherwise(tmp_path):
    model = compiled_model(CSR)
    save(model, tmp_path / "m")
    into = compiled_model(Bitmask, seed=1)
    replace_module(into, "out", SparseLinear.from_dense(into.out, format=Dense))
    loaded = load(tmp_path / "m", into=into)
    assert {type(m) for m in (loaded.first, loaded.back)} == {SparseLinear}
    assert type(loaded.out) is nn.Linear
    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert same_bits(value, loaded.state_dict()[key]), key


def test_a_model_that_is_one_layer_and_one_without_any(tmp_path):
    layer = SparseLinear.from_dense(nn.Linear(8, 4), format=CSR)
    save(layer, tmp_path / "layer")
    assert_same_model(load(tmp_path / "layer", into=nn.Linear(8, 4)), layer)
    dense = dense_model()
    save(dense, tmp_path / "dense")
    assert_same_model(load(tmp_path / "dense", into=dense_model(1)), dense)


def test_the_file_is_small_and_shares_what_is_tied(tmp_path):
    linear = nn.Linear(256, 256)
    layer = SparseLinear.from_dense(linear, random_mask((256, 256), PATTERNS[0], 0.9), CSR)
    save(nn.Sequential(layer, layer), tmp_path / "m")
    size = (tmp_path / "m").stat().st_size
    assert size < layer.packed.nbytes + 4 * 256 + 2500
    assert size < 0.2 * linear.weight.nbytes


def test_the_header_is_plain_and_versioned(tmp_path):
    save(compiled_model(), tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        header = json.loads(file.metadata()["sparsekit"])
    assert header["format_version"] == 1
    assert header["aliases"]["out.weight"] == "embedding.weight"
    assert header["layers"]["again.0"] == {"same_as": "first"}
    assert header["layers"]["back"] == {
        "format": "csr",
        "integers": {"rows": 24, "columns": 16},
        "kernel_by_batch": {"128": "some_kernel"},
        "activation": "none",
        "in_features": 16,
        "out_features": 24,
        "bias": True,
        "dtype": "float32",
    }


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    save(compiled_model(), path)
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(CheckpointError, match="m: cannot be written: No space left on device"):
        save(compiled_model(seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(compiled_model(), tmp_path / "none" / "m")
    with pytest.raises(CheckpointError, match="none: cannot be read as safetensors"):
        load(tmp_path / "none", into=dense_model())


def test_state_that_is_no_tensor_with_data(tmp_path):
    with pytest.raises(CheckpointError, match=r"weight: expected a tensor with data, got a tensor on the meta device"):
        save(nn.Linear(3, 3, device="meta"), tmp_path / "m")

    class Odd(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(CheckpointError, match=r"0\._extra_state: expected a tensor with data, got dict"):
        save(nn.Sequential(Odd()), tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 4, 300, -1, -300])
def test_truncated_files(size, tmp_path):
    save(compiled_model(), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match="m: cannot be read as safetensors"):
        load(tmp_path / "m", into=dense_model())


def rewritten(path, change_header=lambda header: None, change_tensors=lambda tensors: None):
    """Save a compiled model, and write it anew with its header and tensors changed."""
    save(compiled_model(), path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sparsekit"])
    change_header(header)
    change_tensors(tensors)
    save_file(tensors, path, metadata={"sparsekit": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format_version=7), "m: expected format version 1, got 7"),
        (lambda h: h.pop("layers"), "header is damaged: KeyError.*layers"),
        (lambda h: h.update(layers=3), "header is damaged"),
        (lambda h: h["aliases"].update(more="nothing"), "more: expected it stored as 'nothing', found no such tensor"),
        (lambda h: h.update(channels_last=3), "header is damaged"),
        (lambda h: h.update(channels_last=["none"]), "none: expected a tensor of 4 dimensions to be channels_last"),
        (lambda h: h.update(channels_last=["norm.weight"]), r"norm\.weight: expected a tensor of 4 dimensions"),
        (
            lambda h: h["layers"].update(tail={"same_as": "first"}),
            "layer tail: .*expected the name of a layer of Model",
        ),
        (
            lambda h: h["layers"].update(norm=h["layers"]["back"]),
            "layer norm: expected a Linear to replace, got BatchNorm1d",
        ),
        (lambda h: h["layers"]["back"].update(format="coo"), "layer back: .*expected one of dense, csr"),
        (
            lambda h: h["layers"]["back"].update(format="bitmask"),
            "layer back: expected a tensor back.packed_bits, found none",
        ),
        (
            lambda h: h["layers"]["back"].update(in_features=15),
            r"back: expected \(in, out, bias\) = \(15, 24, True\) as the header",
        ),
        (lambda h: h["layers"]["back"].update(bias=False), "back: expected .* as the model says"),
        (lambda h: h["layers"]["back"].update(dtype="float64"), "back: expected float64 values as the header says"),
        (lambda h: h["layers"]["back"]["integers"].update(rows=25), "back: .*expected row_offsets of shape"),
        (lambda h: h["layers"]["back"]["integers"].update(rows="many"), "back: its header is damaged: ValueError"),
        (lambda h: h["layers"]["back"].pop("format"), "back: its header is damaged: KeyError"),
        (lambda h: h["layers"].update(back=None), "back: its header is damaged"),
        (lambda h: h["layers"].pop("back"), "no back.weight and unknown back.packed_column_indices"),
    ],
)
def test_headers_that_do_not_fit(change, message, tmp_path):
    path = rewritten(tmp_path / "m", change_header=change)
    with pytest.raises(CheckpointError, match=message):
        load(path, into=dense_model())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "no norm.bias$"),
        (lambda t: t.update(more=torch.zeros(1)), "unknown more$"),
        (
            lambda t: t.update({"norm.bias": torch.zeros(17)}),
            r"norm.bias: expected \(16,\) in torch.float32, got \(17,\)",
        ),
        (lambda t: t.update({"norm.bias": torch.zeros(16).half()}), "norm.bias: expected .* got .* in torch.float16"),
        (lambda t: t.pop("back.packed_values"), "layer back: expected a tensor back.packed_values, found none"),
        (lambda t: t["back.packed_row_offsets"].add_(1), "layer back: .*expected offsets from 0 to"),
        (
            lambda t: t.update({"back.bias": torch.zeros(3)}),
            r"layer back: .*expected a bias of shape \(24,\), got \(3,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    path = rewritten(tmp_path / "m", change_tensors=change)
    with pytest.raises(CheckpointError, match=message):
        load(path, into=dense_model())


def test_files_of_others_and_models_that_do_not_fit(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"plain: expected metadata with the key 'sparsekit', got \[\]"):
        load(tmp_path / "plain", into=dense_model())
    save(compiled_model(), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"layer first: .*expected the name of a layer of Linear"):
        load(tmp_path / "m", into=nn.Linear(3, 3))
    other = dense_model()
    other.back = nn.Linear(16, 25)
    with pytest.raises(
        CheckpointError, match=r"layer back: expected .* = \(16, 25, True\) as the model says, got \(16, 24, True\)"
    ):
        load(tmp_path / "m", into=other)
    with pytest.raises(CheckpointError, match=r"scale: expected a model with data, got one on the meta device"):
        load(tmp_path / "m", into=dense_model().to("meta"))
    with pytest.raises(CheckpointError, match=r"got .* in torch\.float32"):
        load(tmp_path / "m", into=dense_model().double())


def test_views_of_one_memory_are_stored_apart(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            whole = random_weight((4, 6))
            self.register_buffer("rows", whole[1:3])
            self.register_buffer("turned", whole.T)
            self.register_buffer("whole", whole)
            self.register_buffer("flat", whole.reshape(-1))

    model = Views()
    save(model, tmp_path / "m")
    assert_same_model(load(tmp_path / "m", into=Views()), model)
