"""The benchmark of linear layers measures nothing that is wrong, and says what it has measured."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import sparsekit.kernels
from sparsekit.bench import PROBLEMS, QUICK_PROBLEMS, LinearProblem, Notes, Results, run_linear
from sparsekit.bench import linear as linear_bench
from sparsekit.bench.linear_problems import NO_PROMISE, PEERS_SHAPE
from sparsekit.bench.peers import Peer
from sparsekit.bench.rounding import expect_rounded, rounding_of_8_bits
from sparsekit.bench.weights import WEIGHTS, Weights
from sparsekit.errors import KernelError
from sparsekit.formats import CSR
from sparsekit.kernels import REFERENCE_KERNELS
from sparsekit.kernels.candidates import candidates
from sparsekit.patterns import NM, Block, Unstructured

PROBLEM = LinearProblem(3, 24, 20, Unstructured(), {0.5: 2.0, 0.9: None}, (1,))


@pytest.fixture(autouse=True)
def install(monkeypatch):
    """Two sparse kernels that are right; returned is what makes other ones of them."""
    reference = next(kernel for kernel in REFERENCE_KERNELS if kernel.format is CSR)
    dense = tuple(kernel for kernel in sparsekit.kernels.KERNELS if kernel.format is not CSR)

    def make(**changes):
        own = tuple(replace(reference, name=name, **changes) for name in ("first_mm_test", "second_mm_test"))
        monkeypatch.setattr(sparsekit.kernels, "KERNELS", (*dense, *own))
        return reference

    make()
    monkeypatch.setattr(linear_bench, "cache_bytes", lambda: 1024)
    monkeypatch.setattr(linear_bench, "PEERS", ())
    return make


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_problem_gives_a_row_per_way_and_promises_for_the_fastest(monkeypatch, weights):
    def times_of(calls, seconds, before):
        assert set(before) == set(calls)
        times = {name: 4.0 + number for number, name in enumerate(calls)}
        times |= {
            "first_mm_test 0.5": 1.0,
            "second_mm_test 0.5": 3.0,
            "first_mm_test 0.9": 0.75,
            "second_mm_test 0.9": 0.5,
            "bitmask_mv_native 0.9": 9.0,
        }
        return times

    monkeypatch.setattr(linear_bench, "fastest", times_of)
    before, notes = torch.get_num_threads(), Notes()
    rows = list(run_linear([replace(PROBLEM, weights=weights)], notes=notes))
    assert torch.get_num_threads() == before
    assert set(notes.peaks) == {1}
    dense = [row for row in rows if row.sparsity == 0.0]
    assert dense[0].kernel == "dense_linear_reference"
    assert dense[0].speedup == 1.0
    assert {(row.dense_kernel, row.dense_seconds) for row in rows} == {("dense_linear_reference", 4.0)}
    assert {row.sparsity for row in rows if row.kernel.startswith("dense")} == {0.0}
    found = {(row.kernel, row.sparsity): row for row in rows}
    half = found["first_mm_test", 0.5]
    assert (half.speedup, half.floor, found["second_mm_test", 0.5].floor) == (4.0, 2.0, None)
    assert found["second_mm_test", 0.9].speedup == 8.0
    assert (half.kept, half.sizes, half.weights, half.pattern) == (240, (3, 24, 20), weights, "Unstructured()")
    assert half.kept_flops == 2 * 3 * 240
    assert half.dense_flops == 2 * half.kept_flops
    size = 4 if weights == "float32" else 2
    assert half.bandwidth == 240 * (size + 2) + 21 * 4
    assert half.intensity == half.kept_flops / (half.bandwidth + size * (3 * 24 + 3 * 20))
    assert half.case == f"Unstructured(){' bfloat16' * (weights == 'bfloat16')} M=3 K=24 N=20"
    assert bool(half.share_of_peak) == (weights == "float32")


def test_rows_are_measured_in_truth_and_saved(tmp_path):
    notes = Notes()
    rows = list(run_linear([replace(PROBLEM, pattern=NM(2, 4), floors={0.5: 1.75})], minutes=0.0, notes=notes))
    assert all(row.seconds > 0.0 for row in rows)
    assert {row.kept for row in rows if row.sparsity} == {240}
    content = json.loads(Results(tuple(rows), notes).save(tmp_path / "new").with_suffix(".json").read_text())
    assert [row["sizes"] for row in content["rows"]] == [[3, 24, 20]] * len(rows)
    assert content["peaks"].keys() == {"1"}
    lines = next((tmp_path / "new").glob("*.csv")).read_text().splitlines()
    assert len(lines) == len(rows) + 1
    assert "3x24x20" in lines[1]
    assert {"cpu", "commit", "flags", "torch", "peer"} <= set(lines[0].split(","))


@pytest.mark.parametrize("wrong", ["no bias", "too small", "off at one output", "NaN"])
def test_a_wrong_kernel_is_named_before_it_is_timed(install, wrong):
    reference = install()

    def bind(packed):
        right = reference.bind(packed)

        def multiply(x, bias):
            if wrong == "no bias":
                return right(x, None)
            y = right(x, bias)
            if wrong == "too small":
                return y[:, 1:]
            y[2, 19] += torch.nan if wrong == "NaN" else 1e-2
            return y

        return multiply

    install(bind=bind)
    with pytest.raises(KernelError, match=r"Unstructured\(\) M=3 K=24 N=20: first_mm_test: expected"):
        list(run_linear([PROBLEM], minutes=0.0))


def right(layer):
    return lambda: layer.x @ layer.weight.T + layer.bias


def peer(name, bind=right, **settings):
    return Peer(name, "torch", bind, **settings)


def missing(layer):
    raise ImportError("No module named 'missing'")


def test_peers_are_rows_like_kernels_and_the_absent_are_told_why(monkeypatch):
    wrong = peer("wrong", lambda layer: lambda: layer.x @ layer.weight.T)
    refuses = peer("refuses", refuses=lambda layer: "it runs nothing")
    elsewhere = peer("elsewhere", beside=("bfloat16",))
    peers = (peer("dense"), peer("reads zeros", sparse=True), peer("missing", missing), wrong, refuses, elsewhere)
    monkeypatch.setattr(linear_bench, "PEERS", peers)
    notes = Notes()
    rows = list(run_linear([replace(PROBLEM, peers="all")], minutes=0.0, notes=notes))
    console = Console(file=io.StringIO(), width=200)
    console.print(*Results(tuple(rows)).tables())
    shown = console.file.getvalue()
    assert shown.count("reads zeros") == 2
    assert shown.count("_mm_test") <= 2
    assert "dense_linear" not in shown
    assert [(row.kernel, row.sparsity) for row in rows if row.peer] == [
        ("dense", 0.0),
        ("reads zeros", 0.5),
        ("reads zeros", 0.9),
    ]
    version = f"torch {torch.__version__.partition('+')[0]}"
    assert all(row.peer.startswith(version) and row.floor is None for row in rows if row.peer)
    assert {row.dense_kernel for row in rows}.isdisjoint({"dense"})
    assert notes.peers["dense"].startswith(version)
    assert notes.peers["missing"] == "absent: No module named 'missing'"
    assert notes.peers["wrong"].startswith("absent: Unstructured() M=3 K=24 N=20: wrong: expected errors of at most")
    assert not {"refuses", "elsewhere"} & set(notes.peers)
    few = list(run_linear([replace(PROBLEM, peers="sparse")], minutes=0.0))
    assert {row.kernel for row in few if row.peer} == {"reads zeros"}


def test_a_peer_that_is_absent_is_not_tried_again(monkeypatch):
    tried = []
    monkeypatch.setattr(linear_bench, "PEERS", (peer("gone", lambda layer: tried.append(layer) or missing(layer)),))
    list(run_linear([replace(PROBLEM, peers="all")] * 2, minutes=0.0))
    assert len(tried) == 1


def test_threads_of_others_wait_until_those_of_torch_rest(monkeypatch):
    slept, told = [], {}
    monkeypatch.setattr(linear_bench, "PEERS", (peer("own", own_threads=True), peer("torch's")))
    monkeypatch.setattr(linear_bench.time, "sleep", slept.append)

    def times_of(calls, seconds, before):
        for name in calls:
            slept.clear()
            before[name]()
            told[name] = list(slept)
        return dict.fromkeys(calls, 1.0)

    monkeypatch.setattr(linear_bench, "fastest", times_of)
    list(run_linear([replace(PROBLEM, peers="all")]))
    assert {name for name, pauses in told.items() if pauses} == {"own 0.0"}


def test_dense_ways_of_others_have_to_be_beaten_where_weights_are_rounded(monkeypatch):
    kind = Weights("rounded", torch.float32, candidates, rounds=True)
    monkeypatch.setitem(WEIGHTS, "rounded", kind)
    monkeypatch.setattr(linear_bench, "PEERS", (peer("theirs", beside=("rounded",)),))
    monkeypatch.setattr(
        linear_bench, "fastest", lambda calls, *_: {name: 1.0 + (not name.startswith("theirs")) for name in calls}
    )
    rows = list(run_linear([replace(PROBLEM, peers="all", weights="rounded")]))
    assert {row.dense_kernel for row in rows} == {"theirs"}


def test_the_time_is_shared_by_what_is_left(monkeypatch):
    given, now = [], [0.0]
    monkeypatch.setattr(linear_bench.time, "perf_counter", lambda: now[0])

    def rows(bench, threads, seconds, notes):
        given.append(seconds)
        now[0] += 6.0
        return iter(())

    monkeypatch.setattr(linear_bench.LinearBench, "rows", rows)
    share = linear_bench.LOOKING
    list(run_linear([PROBLEM, replace(PROBLEM, peers="all"), PROBLEM], minutes=0.5))
    assert given == pytest.approx([share * 30 / 5, share * 24 * 3 / 4, share * 18])
    given.clear()
    list(run_linear([PROBLEM] * 2, minutes=0.05))
    assert given == pytest.approx([share * 1.5, 0.0])


@pytest.mark.parametrize("problem", [*PROBLEMS, *QUICK_PROBLEMS], ids=str)
def test_every_problem_can_be_pruned(problem):
    shape = (problem.rows, problem.columns)
    assert problem.weights in WEIGHTS
    assert problem.pattern.refuses(shape) is None
    if not problem.pattern.fixes_sparsity:
        assert all(problem.pattern.sparsity(s, shape) == pytest.approx(s, abs=2e-3) for s in problem.floors)


def test_the_problems_are_what_is_promised():
    names = [str(problem) for problem in PROBLEMS]
    assert len(set(names)) == len(names)
    of = {(p.pattern, p.weights, p.batch, p.columns, p.rows): p for p in PROBLEMS}
    for columns, rows in ((2048, 2048), (1024, 4096), (4096, 1024)):
        for batch, floor in ((1, 6.5), (16, 4.2), (64, 4.8), (512, 4.8)):
            assert of[Unstructured(), "float32", batch, columns, rows].floors[0.9] == floor
        assert of[NM(2, 4), "float32", 1, columns, rows].floors == {0.5: 1.75}
        assert of[Block(32, 32), "bfloat16", 512, columns, rows].floors[0.95] == 12.0
    assert of[Block(16, 1), "float32", 33, 1537, 771].floors[0.5] == 1.85
    assert of[Unstructured(), "float32", 33, 1537, 771].floors[0.5] == 1.1
    assert of[Block(32, 32), "bfloat16", 33, 1537, 771].floors[0.5] == 1.8
    assert of[Unstructured(), "float32", 7, 1537, 771].floors == NO_PROMISE
    assert {(p.columns, p.rows) for p in PROBLEMS if p.peers != "none" and p.weights != "int8"} == {PEERS_SHAPE}
    assert [p.batch for p in PROBLEMS if p.peers == "all" and p.weights == "float32"] == [1, 16, 64, 128, 512]


def test_roundings_to_8_bits_are_allowed_and_nothing_else_is():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 300, generator=generator), torch.randn(50, 300, generator=generator)
    weight[torch.rand(50, 300, generator=generator) < 0.8] = 0.0
    weight[7] = 0.0
    exact = x.double() @ weight.double().T
    deviation = rounding_of_8_bits(x.double(), weight.double())

    def rounded(levels):
        steps = [x.abs().amax(1, keepdim=True) / levels, (weight.abs().amax(1, keepdim=True) / levels).clamp_min(1e-9)]
        parts = [(t / step).round() * step for t, step in zip((x, weight), steps)]
        return parts[0] @ parts[1].T

    expect_rounded("it", rounded(127), exact, deviation)
    for wrong in (rounded(15), torch.zeros(40, 50), exact.float() + 1e-3 * (torch.arange(50) == 7)):
        with pytest.raises(KernelError, match="it: expected errors of at most 8 deviations of 8 bits"):
            expect_rounded("it", wrong, exact, deviation)
    with pytest.raises(KernelError, match="it: expected a result of"):
        expect_rounded("it", exact[1:], exact, deviation)
    spread = ((rounded(127) - exact) / deviation)[:, weight.any(1)].std()
    assert 0.3 < spread < 1.0  # by row of x, whose largest value is below that of all
