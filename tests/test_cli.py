import importlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparsekit import bench, cli
from sparsekit.cli import info
from sparsekit.cli.info import gather
from sparsekit.cli.source import load_source
from sparsekit.cli.words import METHODS, WORDS, read_pattern
from sparsekit.demo.cnn.report import NetworkReports
from sparsekit.demo.minilm.corpus import Corpus, Pair
from sparsekit.formats import Dense, Refusal
from sparsekit.kernels import KERNELS, Kernel
from sparsekit.kernels.gpu import H100
from sparsekit.patterns import (
    NM,
    PATTERNS,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.pruning import SEARCHES

MODEL = "zoo:make"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A module that a user might have in the current folder."""
    code = (
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))\n"
        "    return model, torch.randn(16, 32)\n"
        "def wrong():\n"
        "    return 7\n"
    )
    (tmp_path / "zoo.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    return tmp_path


def run(capsys, *arguments):
    """Run the command line in this process: exit status, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("info",), ("methods",), ("prune",), ("plan",), ("bench",), ("report",)]
)
def test_every_command_explains_itself(capsys, command):
    status, out, _ = run(capsys, *command, "--help")
    assert status == 0
    assert "Usage: sparsekit" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune", "nothing"), "expected minilm, a folder, or package.module:function, got 'nothing'"),
        (("prune", "no_such_module:make"), "No module named 'no_such_module'"),
        (("prune", "zoo:missing"), "has no attribute 'missing'"),
        (("prune", "zoo:wrong"), "expected it to return (model, example_inputs), got int"),
        (("prune", MODEL), "expected sparsity in [0, 1), got None"),
        (("prune", MODEL, "--sparsity", "1.5"), "expected a fraction of zeros in [0, 1), got 1.5"),
        (("prune", MODEL, "--sparsity", "much"), "'much' is not a valid float"),
        (("prune", MODEL, "--pattern", "5:4"), "expected integers 1 <= n <= m"),
        (("prune", MODEL, "--pattern", "round"), "expected unstructured, filter, channel, kernel"),
        (("prune", MODEL, "--method", "magnitud"), "`sparsekit methods` lists, got 'magnitud'; did you mean magnitude"),
        (("prune", MODEL, "--allocation", "guess"), "expected one that `sparsekit methods` lists, got 'guess'"),
        (
            ("prune", MODEL, "--sparsity", "0.5", "--output", "no/such/folder/x"),
            "expected a file in a folder that exists",
        ),
        (("prune",), "Missing argument 'MODEL'"),
        (("plan", MODEL, "--weights", "missing.safetensors"), "does not exist"),
        (("plan", MODEL, "--weights", "zoo.py"), "expected weights of this model"),
        (("unknown",), "No such command 'unknown'"),
        (("bench", "everything"), "'everything' is not one of 'linear', 'conv', 'training', 'model'"),
        (("bench", "conv", "--minutes", "1"), "--minutes: expected it with linear only, got conv"),
        (("bench", "--minutes", "-1"), "-1.0 is not in the range"),
        (("demo", "--model", "bert"), "'bert' is not one of 'minilm', 'cnn'"),
        (("info", "--threads", "0"), "0 is not in the range"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_line(capsys, zoo, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


# What these need is not in every model.
REFUSED = {
    "batchnormscale": "error: 0.weight: expected a BatchNorm behind the layer, got none that gets its output\n",
    "channellasso": "error: 0.weight: ChannelLasso(penalty=0.001, damping=0.0001, targets='dense') removes whole input "
    "channels, as Channel() has them, and Unstructured() has other units\n",
}


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_prune_says_what_the_model_lacks(capsys, zoo, method):
    status, out, err = run(capsys, "prune", MODEL, "--method", method, "--sparsity", "0.75")
    assert (status, out, err) == (2, "", REFUSED[method])


@pytest.mark.parametrize("method", sorted(METHODS.keys() - REFUSED))
def test_prune_saves_what_it_says(capsys, zoo, method):
    status, out, err = run(
        capsys, "prune", MODEL, "--method", method, "--sparsity", "0.75", "--output", "x.safetensors", "--json"
    )
    if METHODS[method] in SEARCHES and METHODS[method]().needs_loss:  # the command's only loss has no meaning
        assert status == 2
        assert "the value of SampledOutput says nothing" in err
        return
    assert status == 0
    weights = load_file(zoo / "x.safetensors")
    layers = json.loads(out)["layers"]
    assert [layer["name"] for layer in layers] == ["0.weight", "2.weight"]
    for layer in layers:
        assert layer["nnz"] == int((weights[layer["name"]] != 0).sum())
        assert layer["sparsity"] == 0.75 or method in {"randombernoulli", "besa"}  # draw, or learn, how much goes


def test_names_may_be_written_in_any_case_and_layers_share_zeros(capsys, zoo):
    options = ("--sparsity", "0.75", "--json")
    status, out, _ = run(capsys, "prune", MODEL, "--method", "Magnitude-Gradient", "--allocation", "GLOBAL", *options)
    assert status == 0
    layers = json.loads(out)["layers"]
    assert sum(layer["nnz"] for layer in layers) == (32 * 64 + 64 * 10) // 4
    assert layers[0]["sparsity"] != layers[1]["sparsity"]
    status, _, err = run(capsys, "prune", MODEL, "--method", "wanda", "--pattern", "2:4", "--allocation", "erk")
    assert status == 2
    assert "nothing to share out" in err


def test_prune_prints_a_summary(capsys, zoo):
    status, out, _ = run(capsys, "prune", MODEL, "--pattern", "2:4")
    assert status == 0
    assert "50.00%" in out
    assert "Nothing saved" in out


def test_plan_of_what_prune_has_saved(capsys, zoo, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(zoo / "cache"))
    run(capsys, "prune", MODEL, "--sparsity", "0.9", "--output", "pruned.safetensors")
    status, out, _ = run(
        capsys, "plan", MODEL, "--weights", "pruned.safetensors", "--output", "fast.safetensors", "--json"
    )
    assert status == 0
    assert len(json.loads(out)["layers"]) == 2
    assert (zoo / "fast.safetensors").is_file()
    status, out, _ = run(capsys, "plan", MODEL, "--weights", "pruned.safetensors")
    assert status == 0
    assert "planned" in out


@pytest.mark.parametrize(("model", "name"), [("minilm", "minilm.run.run_demo"), ("cnn", "cnn.run.run_cnn")])
@pytest.mark.parametrize("quick", [True, False])
def test_demo_runs_the_model_that_is_named(capsys, tmp_path, monkeypatch, model, name, quick):
    settings = importlib.import_module(f"sparsekit.demo.{model}.recipes")
    ran = []

    def run_nothing(chosen, out, console):
        ran.append((chosen, out))
        return NetworkReports(())

    monkeypatch.setattr(f"sparsekit.demo.{name}", run_nothing)
    options = ("--out", str(tmp_path), "--json", *(("--quick",) if quick else ()))
    status, out, _ = run(capsys, "demo", "--model", model, *options)
    assert (status, json.loads(out)) == (0, {"networks": []})
    assert ran == [(settings.QUICK if quick else settings.FULL, tmp_path)]


@pytest.mark.parametrize("quick", [True, False])
def test_bench_of_convolutions_ends_with_whole_networks(capsys, monkeypatch, quick):
    asked = []
    monkeypatch.setattr(bench, "run_conv", lambda cases, tell: asked.append(cases) or [])
    monkeypatch.setattr(bench, "run_networks", lambda cases, tell: asked.append(cases) or [])
    status, out, _ = run(capsys, "bench", "conv", "--json", *(("--quick",) if quick else ()))
    assert (status, json.loads(out)["rows"]) == (0, [])
    assert asked == ([bench.QUICK_CONV_CASES] if quick else [bench.CONV_CASES, bench.NETWORK_CASES])


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), ("run_linear", bench.PROBLEMS)),
        (("linear", "--quick"), ("run_linear", bench.QUICK_PROBLEMS)),
        (("training",), ("run_training", bench.TRAINING_PROBLEMS)),
        (("training", "--quick"), ("run_training", bench.QUICK_TRAINING_PROBLEMS)),
        (("model",), ("run_models", bench.MODEL_CASES)),
        (("model", "--quick"), ("run_models", bench.MODEL_CASES[:1])),
    ],
)
def test_bench_measures_what_is_asked_for(capsys, monkeypatch, arguments, asked):
    ran = []
    for name in ("run_linear", "run_training", "run_models"):
        monkeypatch.setattr(bench, name, lambda cases, tell, *rest, name=name: ran.append((name, cases)) or [])
    status, out, _ = run(capsys, "bench", *arguments, "--json")
    assert (status, json.loads(out)["rows"]) == (0, [])
    assert ran == [asked]


def test_bench_of_linear_layers_saves_rows_peers_and_pictures(capsys, monkeypatch, tmp_path):
    given, drawn = [], []

    def one_row(problems, tell, minutes, notes):
        given.append(minutes)
        notes.peers["a library"] = "absent: for a reason"
        return [bench.Row("a case", 0.9, 1, "a kernel", 1.0, "dense", 2.0, floor=3.0)]

    monkeypatch.setattr(bench, "run_linear", one_row)
    monkeypatch.setattr(bench, "draw_linear", lambda content, path: drawn.append((content, path)) or [])
    status, out, err = run(capsys, "bench", "--minutes", "2", "--output", str(tmp_path / "new"))
    assert (status, given) == (0, [2.0])
    assert "a library: absent: for a reason" in out
    assert "2.00x" in out
    assert "Saved" in err
    (content, path), saved = drawn[0], json.loads(drawn[0][1].with_suffix(".json").read_text())
    assert content == saved
    assert saved["peers"] == {"a library": "absent: for a reason"}
    assert path.with_suffix(".csv").exists()


def test_info_asks_every_kernel(capsys):
    status, out, _ = run(capsys, "info", "--json")
    assert status == 0
    found = json.loads(out)
    assert [kernel["name"] for kernel in found["kernels"]] == [kernel.name for kernel in KERNELS]
    assert all(answer for kernel in found["kernels"] for answer in kernel["answers"].values())
    assert found["machine"]["threads"] == torch.get_num_threads()


def test_info_prints_tables(capsys):
    status, out, _ = run(capsys, "info")
    assert status == 0
    for word in ("processor", "formats", "kernels", *(kind["name"] for kind in gather()["formats"])):
        assert word in out
    assert ("not used: " in out) == (gather()["native"]["amx"] != "")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured", Unstructured()),
        ("2:4", NM(2, 4)),
        ("16x1", Block(16, 1)),
        ("2:4t", TransposableNM(2, 4)),
        ("64:2:8", VNM(64, 2, 8)),
        ("filter", Filter()),
        ("channel", Channel()),
        ("head:64", Head(64)),
        ("head-in:64", Head(64, axis=1)),
        ("kernel", KernelSlice()),
        ("one-per-kernel", OnePerKernel()),
        ("kernel-pattern", KernelPattern(4, 8)),
        ("kernel-pattern:3:6", KernelPattern(3, 6)),
        ("strided-kernel", StridedKernel(2)),
        ("strided-kernel:3", StridedKernel(3)),
        ("per-tap:2:4", PerTap(NM(2, 4))),
        ("per-tap:channel", PerTap(Channel())),
        ("all-taps:16x8", AllTaps(Block(16, 8))),
        ("all-taps:64:2:8", AllTaps(VNM(64, 2, 8))),
        ("all-taps", None),
        ("per-tap:", None),
        ("2:4x", None),
        ("head", None),
        ("", None),
    ],
)
def test_patterns_are_read(text, pattern):
    assert read_pattern(text) == pattern


def test_every_pattern_can_be_written_and_is_explained(capsys):
    forms = ("2:4", "2:4t", "64:2:8", "16x16", "head:64", "kernel-pattern:4:8", "strided-kernel:2")
    forms += ("per-tap:2:4", "per-tap:16x16", "all-taps:2:4", "all-taps:16x16")
    assert {type(read_pattern(text)) for text in (*WORDS, *forms)} == set(PATTERNS)
    _, out, _ = run(capsys, "prune", "--help")
    told = "".join(out.split())  # lines break at hyphens too
    assert all(text in told for text in (*WORDS, *forms))


def test_a_folder_is_a_text_model(capsys, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=128, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"])
    )
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    corpus = Corpus(("one text", "another text"), (Pair("a query", "and its document"),))
    monkeypatch.setattr("sparsekit.cli.source.load_corpus", lambda: corpus)
    capsys.readouterr()
    status, out, err = run(
        capsys, "prune", str(tmp_path), "--method", "wanda", "--sparsity", "0.5", "--texts", "4", "--json"
    )
    assert (status, err) == (0, "")
    assert len(json.loads(out)["layers"]) == 6


def test_heavy_libraries_are_not_imported_before_they_are_used():
    code = (
        "import sys; from sparsekit.cli import app;"
        "heavy = {'transformers', 'matplotlib', 'triton', 'torch._dynamo'}; found = heavy & sys.modules.keys();"
        "print(sorted(found))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_models_of_functions_are_in_evaluation_mode(zoo):
    source = load_source(MODEL)
    assert isinstance(source.model, nn.Sequential)
    assert not source.model.training
    assert len(source.batches(5)) == 1


def test_info_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(info, "gpus", lambda: ())
    assert info.describe_gpu()["name"].startswith(f"none: torch {torch.__version__} ")


def test_info_names_the_gpu_and_asks_kernels_about_it(monkeypatch):
    monkeypatch.setattr(info, "gpus", lambda: (H100, H100))
    monkeypatch.setattr(info, "driver", lambda: "580.1")
    found = info.describe_gpu()
    assert found["name"] == f"{H100.name} and 1 more, compute capability 9.0, 132 multiprocessors"
    assert found["driver"] == "580.1"
    assert found["tuned"]
    asked = []

    def on_the_second_device(problem):
        asked.append(problem)
        return None if len(asked) % 2 == 0 else Refusal("not on the first")

    monkeypatch.setattr(info, "sample", lambda kind, dtype, device: device)
    assert set(info.answers(Kernel("k", Dense, on_the_second_device, None)).values()) == {"yes, on the GPU"}
    assert [problem.packed for problem in asked] == ["cpu", "cuda"] * 3
