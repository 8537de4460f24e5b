"""The benchmark of linear layers measures nothing that is wrong, and says what it has measured."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import sparsekit.kernels
from sparsekit.bench import (
    PROBLEMS,
    QUICK_PROBLEMS,
    LinearProblem,
    Notes,
    Results,
    Row,
    results,
    run_linear,
    warm_and_cold,
)
from sparsekit.bench import linear as linear_bench
from sparsekit.bench.linear_problems import NO_PROMISE, PEERS_SHAPE
from sparsekit.bench.peers import Peer
from sparsekit.bench.rounding import expect_rounded, rounding_of_8_bits
from sparsekit.bench.warm_and_cold import SETTLE_S, Way, time_ways
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
    monkeypatch.setattr(warm_and_cold, "cache_bytes", lambda: 1024)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)  # which takes seconds to be imported
    monkeypatch.setattr(linear_bench, "PEERS", ())
    return make


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_problem_gives_a_row_per_way_and_promises_for_the_fastest(monkeypatch, weights):
    def times_of(calls, seconds, before):
        assert set(before) == set(calls)
        if all(call.func.__name__ == "evicted" for call in before.values()):  # cold
            return {name: 6.0 if name.startswith("dense_linear_reference") else 8.0 for name in calls}
        times = {name: 4.0 + number for number, name in enumerate(calls)}
        times |= {
            "first_mm_test 0.5": 1.0,
            "second_mm_test 0.5": 3.0,
            "first_mm_test 0.9": 0.75,
            "second_mm_test 0.9": 0.5,
            "bitmask_mv_native 0.9": 9.0,
        }
        return times

    monkeypatch.setattr(warm_and_cold, "fastest", times_of)
    before, notes = torch.get_num_threads(), Notes()
    all_rows = list(run_linear([replace(PROBLEM, weights=weights)], notes=notes))
    rows, cold = ([row for row in all_rows if row.memory == memory] for memory in ("warm", "cold"))
    assert [(row.kernel, row.sparsity) for row in cold] == [(row.kernel, row.sparsity) for row in rows]
    assert {(row.dense_kernel, row.dense_seconds) for row in cold} == {("dense_linear_reference", 6.0)}
    assert {row.floor for row in cold if row.sparsity == 0.5} == {2.0}
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


def test_rows_are_measured_in_truth_and_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ISA_LIMIT", "")
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
    assert {"cpu", "commit", "flags", "torch", "peer", "memory"} <= set(lines[0].split(","))
    assert [row["memory"] for row in content["rows"]] == [row.memory for row in rows]
    monkeypatch.setattr(results, "ISA_LIMIT", "avx2")
    limited = Results(tuple(rows), notes).save(tmp_path / "new")
    assert limited.name.endswith("-avx2")
    assert len(list((tmp_path / "new").glob("*.json"))) == 2
    assert json.loads(limited.with_suffix(".json").read_text())["machine"]["isa_limit"] == "avx2"


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
    assert [(row.memory, row.kernel, row.sparsity) for row in rows if row.peer] == [
        (memory, name, sparsity)
        for memory in ("warm", "cold")
        for name, sparsity in (("dense", 0.0), ("reads zeros", 0.5), ("reads zeros", 0.9))
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


def test_tables_judge_by_warm_calls_and_have_the_cold_ones_beside_them():
    def row(kernel, seconds, memory="warm", **changes):
        dense = 1.0 if memory == "warm" else 3.0
        return Row("a case", 0.5, 1, kernel, seconds, "dense", dense, sizes=(1, 2, 3), memory=memory, **changes)

    rows = (
        *(row("a", 0.5, floor=1.9), row("b", 0.6), row("theirs", 2.0, peer="x 1"), row("lone", 4.0, peer="x 1")),
        *(row("a", 2.0, "cold"), row("b", 1.875, "cold", floor=1.9), row("theirs", 1.0, "cold", peer="x 1")),
    )
    (table,) = Results(rows).tables()
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["kernel"] == ["a", "[dim]theirs[/dim]", "[dim]lone[/dim]"]
    assert columns["speedup"] == ["2.00x", "0.50x", "0.25x"]
    assert columns["cold"] == ["[red]1.60x[/red]", "3.00x", ""]
    assert columns["floor"] == ["1.9x", "", ""]
    assert list(columns) == ["zeros", "threads", "kernel", "dense ms", "ms", "speedup", "cold", "floor"]


def test_a_peer_that_is_absent_is_not_tried_again(monkeypatch):
    tried = []
    monkeypatch.setattr(linear_bench, "PEERS", (peer("gone", lambda layer: tried.append(layer) or missing(layer)),))
    list(run_linear([replace(PROBLEM, peers="all")] * 2, minutes=0.0))
    assert len(tried) == 1


def recorded(monkeypatch, heard):
    """Let ``heard`` tell, by name, what precedes a warm and a cold call, in the rounds that would be timed."""

    def times_of(calls, seconds, before):
        found = {}
        for name in calls:
            heard.clear()
            before.get(name, list)()
            found[name] = list(heard)
        told.append((seconds, found))
        return dict.fromkeys(calls, 1.0)

    told = []
    monkeypatch.setattr(warm_and_cold, "fastest", times_of)
    monkeypatch.setattr(warm_and_cold.HOST, "eviction", lambda size, x: lambda: heard.append((size, x)))
    monkeypatch.setattr(warm_and_cold.time, "sleep", heard.append)
    return told


def test_a_cold_call_finds_all_but_the_weight_in_the_caches_and_a_warm_one_what_it_left_there(monkeypatch):
    heard, x = [], torch.ones(2)
    told = recorded(monkeypatch, heard)
    hear = lambda name: lambda: heard.append(name)  # noqa: E731
    ways = [Way("a", 0.0, hear("A"), hear("a")), Way("b", 0.5, hear("B"), hear("b")), Way("c", 0.5, hear("C"))]
    assert time_ways(ways, x, 10.0) == {
        memory: {"a 0.0": 1.0, "b 0.5": 1.0, "c 0.5": 1.0} for memory in ("warm", "cold")
    }
    (warm_s, warm), (cold_s, cold) = told
    assert (warm_s, cold_s) == pytest.approx((4.0, 6.0))
    assert warm == {"a 0.0": ["A"] * 3, "b 0.5": ["B"] * 3, "c 0.5": ["C"] * 3}
    emptied = (2 * 1024, x)
    assert cold == {"a 0.0": [emptied, "a"], "b 0.5": [emptied, "b"], "c 0.5": [emptied]}


def test_calls_wait_where_threads_of_two_libraries_meet(monkeypatch):
    heard, x = [], torch.ones(2)
    told = recorded(monkeypatch, heard)
    hear = lambda name: lambda: heard.append(name)  # noqa: E731
    ways = [Way(name, 0.0, hear(name.upper()), hear(name), own_threads=name in "cd") for name in "abcde"]
    time_ways(ways, x, 1.0)
    warm, cold = told[0][1], told[1][1]
    waited = {f"{name} 0.0": [SETTLE_S, *3 * name.upper()] for name in "cde"}
    assert warm == {"a 0.0": ["A"] * 3, "b 0.0": ["B"] * 3, **waited}
    assert {name for name, heard in cold.items() if SETTLE_S in heard} == {"c 0.0", "d 0.0"}
    assert cold["c 0.0"] == [(2 * 1024, x), SETTLE_S, "c"]
    told.clear()
    time_ways(ways[1:3], x, 1.0)
    assert told[0][1] == {"b 0.0": [SETTLE_S, *"BBB"], "c 0.0": [SETTLE_S, *"CCC"]}


def test_the_first_rows_are_multiplied_by_the_same_kernels_and_share_no_memory(monkeypatch):
    def seen(ways, x, seconds):
        found.extend(ways)
        return {}

    def bind(layer):
        layers.append(layer)
        return right(layer)

    found, layers = [], []
    monkeypatch.setattr(linear_bench, "time_ways", seen)
    monkeypatch.setattr(linear_bench, "PEERS", (peer("dense", bind), peer("reads zeros", sparse=True)))
    bench = linear_bench.LinearBench(replace(PROBLEM, rows=80, peers="all"))
    list(bench.rows(1, 0.0, Notes()))
    assert len(found) > 6
    for way in found:
        assert way.first_rows().shape == (3, 64)
        assert torch.allclose(way.first_rows(), way.call()[:, :64], rtol=1e-4, atol=1e-4), way
    whole, few = (layer.weight.untyped_storage().data_ptr() for layer in layers)
    assert whole != few


def test_a_peer_that_runs_no_small_weight_is_timed_all_the_same(monkeypatch):
    def large_only(layer):
        if layer.weight.shape[0] <= 64:
            raise RuntimeError("too small")
        return right(layer)

    monkeypatch.setattr(linear_bench, "PEERS", (peer("large only", large_only),))
    notes = Notes()
    rows = list(run_linear([replace(PROBLEM, rows=80, peers="all")], minutes=0.0, notes=notes))
    assert [(row.memory, row.seconds > 0.0) for row in rows if row.peer] == [("warm", True), ("cold", True)]
    assert notes.peers["large only"].startswith("torch ")


def test_dense_ways_of_others_have_to_be_beaten_where_weights_are_rounded(monkeypatch):
    kind = Weights("rounded", torch.float32, candidates, rounds=True)
    monkeypatch.setitem(WEIGHTS, "rounded", kind)
    monkeypatch.setattr(linear_bench, "PEERS", (peer("theirs", beside=("rounded",)),))
    monkeypatch.setattr(
        warm_and_cold, "fastest", lambda calls, *_: {name: 1.0 + (not name.startswith("theirs")) for name in calls}
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
        for batch, floor in ((1, 6.5), (16, 4.2), (64, 4.8), (128, 4.8), (512, 4.8)):
            assert of[Unstructured(), "float32", batch, columns, rows].floors[0.9] == floor
        for batch in (16, 128, 512):
            assert of[Block(16, 16), "float32", batch, columns, rows].floors[0.95] == 16.0
            assert of[Block(16, 1), "float32", batch, columns, rows].floors[0.95] == 16.0
        assert of[NM(2, 4), "float32", 1, columns, rows].floors == {0.5: 1.75}
        assert of[Block(16, 2), "bfloat16", 1, columns, rows].floors[0.9] == 8.0
        for batch in (32, 128, 512):
            assert of[Block(32, 32), "bfloat16", batch, columns, rows].floors[0.95] == 12.0
            assert of[Block(32, 32), "int8", batch, columns, rows].floors[0.9] == 7.0
    large = next(p for p in PROBLEMS if p.pattern == Unstructured() and p.weights == "int8" and p.floors[0.5])
    assert large.floors == {0.5: 1.6, 0.7: 2.3}
    assert large.rows * large.columns > 32 << 20
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
