"""The race of whole encoders in bfloat16, on one that is small."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsekit.bench import encoders, engines
from sparsekit.bench.engines import Engine
from sparsekit.bench.problems import MODEL_CASES, EncoderCase
from sparsekit.errors import InputError, KernelError
from sparsekit.kernels import native
from sparsekit.patterns import Block

CASES = [EncoderCase("small", Block(8, 8), 0.5, 1.1, (1,)), EncoderCase("small", Block(8, 8), 0.75, 1.4, (1,))]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, input_ids, attention_mask):
        return (self.encoder(self.embedding(input_ids)),)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A small encoder, no compiler and no engine; compiling takes longer than all other tests of a benchmark."""
    torch.manual_seed(0)
    model, ids = Small().eval(), torch.randint(50, (2, 16))
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(encoders, "BUDGET_S", 0.0)
    monkeypatch.setattr(encoders, "load", lambda name: (model, {"input_ids": ids, "attention_mask": ids > 0}))
    monkeypatch.setattr(encoders, "compiled", lambda *_, **__: None)
    monkeypatch.setattr(encoders, "ENGINES", ())


def slow_engine(call):
    return Engine("theirs int8", ("torch",), lambda exported: lambda: call(exported), eight_bits=True)


def test_dense_ways_stand_beside_the_sparse_ones(monkeypatch):
    eight_bits = slow_engine(lambda exported: exported.model(**exported.sheet)[0].detach() * 1.5)
    monkeypatch.setattr(encoders, "ENGINES", (eight_bits, Engine("gone", ("no-such-package",), pytest.fail)))
    told = []
    rows = list(encoders.run_encoders(CASES, told.append))
    assert [(row.kernel, row.sparsity) for row in rows] == [
        *(("eager", 0.0), ("eager bf16", 0.0), ("theirs int8", 0.0)),
        *(("compile", 0.5), ("compile", 0.75)),
    ]
    best = min(rows[:2], key=lambda row: row.seconds)
    assert {(row.dense_kernel, row.dense_seconds, row.threads) for row in rows} == {(best.kernel, best.seconds, 1)}
    assert "small, 75% zeros, 1 threads" in told
    assert not list(encoders.run_encoders([]))


@pytest.mark.parametrize(("isa", "floors"), [("amx", [1.1, 1.4]), ("avx512bf16", [None, None])])
def test_floors_are_promised_on_amx(monkeypatch, isa, floors):
    monkeypatch.setattr(native, "describe", lambda: {"in_use": {"block_half": isa}})
    assert [row.floor for row in encoders.run_encoders(CASES)][-2:] == floors


def test_an_encoder_is_exported_once_for_all_numbers_of_threads(monkeypatch, tmp_path):
    bound, made = [], []

    def bind(exported):
        bound.append((exported, exported.threads, torch.get_num_threads()))
        return partial(encoders._states, exported.model, exported.sheet)

    monkeypatch.setattr(encoders, "ENGINES", (Engine("theirs", ("torch",), bind),))
    before = torch.get_num_threads()
    rows = list(encoders.run_encoders([EncoderCase("small", Block(8, 8), 0.5, 1.1, (1, 2))]))
    assert [row.threads for row in rows if row.kernel == "theirs"] == [1, 2]
    assert [threads for _, *threads in bound] == [[1, 1], [2, 2]]
    assert bound[0][0] is bound[1][0]
    assert torch.get_num_threads() == before

    def quantize(given, path, **settings):
        made.append(path)
        path.touch()

    tool = SimpleNamespace(quantize_dynamic=quantize, QuantType=SimpleNamespace(QInt8=0))
    monkeypatch.setattr(engines.importlib, "import_module", lambda name: tool)
    exported = engines.Exported(bound[0][0].model, bound[0][0].sheet, tmp_path)
    exported.float32 = tmp_path / "float32.onnx"
    assert exported.quantised("quantize_dynamic") == exported.quantised("quantize_dynamic") == made[0]
    assert len(made) == 1


def test_what_computes_something_else_ends_the_race(monkeypatch):
    right = encoders.compile_model
    monkeypatch.setattr(encoders, "compile_model", lambda *args: right(*args).apply(negate))
    with pytest.raises(KernelError, match="compiled small, 50% zeros: expected states within"):
        list(encoders.run_encoders(CASES))
    monkeypatch.setattr(
        encoders, "ENGINES", (slow_engine(lambda exported: -exported.model(**exported.sheet)[0].detach()),)
    )
    with pytest.raises(KernelError, match="small, theirs int8: expected states within 1 of float32, got 2"):
        list(encoders.run_encoders(CASES))


def negate(module):
    if isinstance(module, nn.Embedding):
        module.weight.data.neg_()


def test_absent_engines_are_reported_as_such(monkeypatch):
    present, absent = Engine("here", ("torch",), pytest.fail), Engine("gone", ("no-such-package", "torch"), pytest.fail)
    monkeypatch.setattr(encoders, "ENGINES", (present, absent))
    assert encoders.engines_here() == {
        "here": f"torch {torch.__version__}",
        "gone": "absent: no-such-package not installed",
    }
    assert [engine.name for engine in engines.ENGINES if "int8" in engine.name] == [
        engine.name for engine in engines.ENGINES if engine.eight_bits
    ]


def test_the_cases_name_encoders_that_can_be_loaded(monkeypatch):
    monkeypatch.undo()
    assert {case.encoder for case in MODEL_CASES if isinstance(case, EncoderCase)} == {"MiniLM", "BERT-base"}
    with pytest.raises(InputError, match="expected an encoder of MiniLM, BERT-base, got 'GPT'"):
        encoders.load("GPT")
