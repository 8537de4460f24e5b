"""A whole run on the CPU, Triton's kernels interpreted: nothing in it may first be met on a GPU."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sparsekit.kernels
from benchmarks import gpu as script
from sparsekit.bench.gpu import contests, race, run, tuning
from sparsekit.bench.gpu.cases import (
    BSR,
    BSR_TUNED,
    CUSPARSELT,
    CUSPARSELT_SEARCHED,
    DRY_GPU_CASES,
    Floor,
    GpuLinear,
)
from sparsekit.bench.gpu.checks import check_kernel, checked_kernels
from sparsekit.bench.gpu.contests import run_case
from sparsekit.bench.gpu.run import Run
from sparsekit.bench.gpu.session import Session
from sparsekit.bench.gpu.tables import tuned_table
from sparsekit.kernels.gpu import H100
from sparsekit.kernels.timing import HostClock
from sparsekit.kernels.triton.block_csr import BLOCK_CSR_MM
from sparsekit.kernels.triton.tile import Tile
from sparsekit.patterns import Block
from tests.bench.gpu.conftest import CPU

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a machine with a GPU the script itself runs")

ROOT = Path(__file__).parents[3]


class Ended:
    """A process that has ended."""

    returncode = 0

    def poll(self):
        return 0


@pytest.fixture
def clock(monkeypatch):
    """One way is called, for the others were, and each takes a made-up time: Triton's, then peers, then dense."""

    def fastest(calls, budget, before=None, clock=None):
        if before is not None:
            before()
        next(iter(calls.values()))()
        seconds = {name: 1e-6 if "triton" in name else 2e-6 if "sparse" in name else 4e-6 for name in calls}
        return dict(sorted(seconds.items(), key=lambda item: item[1]))

    for module in (race, tuning):
        monkeypatch.setattr(module, "fastest", fastest)
    monkeypatch.setattr(race, "MOST_LAYERS", 3)


def records(folder, kind):
    return [r for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if r["kind"] == kind]


def test_a_whole_run(tmp_path, clock, capsys):
    one = Run(tmp_path, "dry", 5.0, CPU, run.time.time(), print)

    def start(first):
        # a tensor that is not told where to be would be on a GPU's host: here, nowhere
        with torch.device("meta"):
            one.measure(first)
        return Ended()

    assert one.watch(start) == 0
    assert not records(tmp_path, "skipped")
    assert not records(tmp_path, "wrong")
    assert not records(tmp_path, "failed")
    checked = {record["way"] for record in records(tmp_path, "checked") if record["checks"]}
    assert checked >= {"block_csr_mm_triton", "csr_mm_native", "block_csr_gradients_native", "block_csr_conv_native"}
    content = json.loads((tmp_path / "nvidia-h100-80gb-hbm3.json").read_text())
    assert {row["case"].partition(", of the")[0] for row in content["rows"]} == {str(case) for case in DRY_GPU_CASES}
    triton = [row for row in content["rows"] if row["way"] == "block_csr_mm_triton"]
    assert {(row["speedup"], row["layers"]) for row in triton} == {(4.0, 1), (4.0, 3)}
    assert set(content["ceilings"]) == {"flops", "bandwidth"}
    assert len((tmp_path / "nvidia-h100-80gb-hbm3.csv").read_text().splitlines()) == 1 + len(content["rows"])
    text = capsys.readouterr().out
    absent = {record["way"] for record in records(tmp_path, "absent")}
    assert absent == {"F.linear, cublasLt", CUSPARSELT, CUSPARSELT_SEARCHED, BSR, BSR_TUNED}
    assert "ABSENT: F.linear, cublasLt" in text
    assert "4.00x" in text


def wrong(packed, activation="none"):
    return lambda x, bias: torch.zeros(x.shape[0], packed.rows, dtype=x.dtype)


def breaks(packed, activation="none"):
    def multiply(x, bias):
        raise RuntimeError("too many\nresources")

    return multiply


@pytest.mark.parametrize(("bind", "reason"), [(wrong, "results are wrong"), (breaks, "RuntimeError: too many")])
def test_a_kernel_that_is_wrong_is_left_out_of_the_timing(session, clock, monkeypatch, bind, reason):
    bad = sparsekit.kernels.Kernel("bad_mm", BLOCK_CSR_MM.format, BLOCK_CSR_MM.refuses, bind)
    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (bad, BLOCK_CSR_MM, *sparsekit.kernels.KERNELS[-9:]))
    case = GpuLinear(Block(16, 16), 3, 32, 32, {0.5: Floor()})
    run_case(case, session)
    (found,) = session.log.records("wrong")
    assert found["way"] == "bad_mm"
    assert reason in found["reason"]
    check_kernel(bad, session)
    assert reason in session.log.failed()["bad_mm"]
    before = len(session.log.records("wrong"))
    run_case(case, session)
    assert len(session.log.records("wrong")) == before
    ways = {record["row"]["way"] for record in session.log.records("row")}
    assert "block_csr_mm_triton" in ways
    assert "bad_mm" not in ways


def test_the_fastest_tile_that_is_right_is_kept(session, clock, monkeypatch):
    tiles = [Tile(16, 16, 16), Tile(32, 16, 16), Tile(17, 16, 16), Tile(64, 16, 16)]
    times = {"1": 1.0, "0": 2.0, "2": 1.1}
    monkeypatch.setattr(tuning, "fastest", lambda calls, *rest: dict(sorted((n, times[n]) for n in calls)))
    kernel = sparsekit.kernels.triton.tiled.tiled_kernel(
        BLOCK_CSR_MM.name,
        BLOCK_CSR_MM.format,
        BLOCK_CSR_MM.refuses,
        sparsekit.kernels.triton.tiled.Tiling(
            BLOCK_CSR_MM.tiling.prepare, lambda problem, gpu: tiles, BLOCK_CSR_MM.tiling.launches
        ),
    )
    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (kernel, *sparsekit.kernels.KERNELS[-9:]))
    run_case(GpuLinear(Block(16, 16), 33, 32, 32, {0.5: Floor()}), session)
    (found,) = session.log.records("tuned")
    assert found["tried"] == 3  # 17 is no power of two
    assert session.log.records("wrong")[0]["case"] == str(tiles[2])
    ((case, tile),) = tuned_table(session.log, H100).tiles.items()
    assert (case.kernel, case.batch, case.pattern) == (BLOCK_CSR_MM.name, 33, "16x16")
    assert tile == tiles[1]


def test_a_row_says_whether_its_way_was_captured(session, monkeypatch):
    class Captures(HostClock):
        def ready(self, call):
            return call if call in slow else partial(call)

    slow, fastest = [], race.fastest

    def first_is_slow(calls, *rest):
        slow.append(next(iter(calls.values())))
        return fastest(calls, *rest)

    monkeypatch.setattr(race, "fastest", first_is_slow)
    monkeypatch.setattr(Session, "clock", Captures())
    run_case(GpuLinear(Block(16, 16), 80, 32, 32, {0.5: Floor()}), session)
    assert [r["row"]["way"] for r in session.log.records("row") if not r["row"]["captured"]] == ["F.linear"]


def test_nothing_is_tuned_when_the_time_for_it_is_over(session, clock, monkeypatch):
    session.tunes_until = 0.0
    monkeypatch.setattr(contests, "tune_kernel", None)
    run_case(GpuLinear(Block(16, 16), 3, 32, 32, {0.5: Floor()}), session)
    assert session.log.records("row")


def test_references_and_dense_kernels_are_what_others_are_checked_by():
    names = {kernel.name for kernel in checked_kernels()}
    assert "block_csr_mm_triton" in names
    assert not any("reference" in name or name.startswith("dense") for name in names)


def test_gradients_are_raced_only_where_weights_are_trained():
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    mask = contests.select(Block(16, 16), weight, 0.5)
    found = [kernel.name for kernel, _ in contests.gradient_kernels(weight, mask, 3)]
    assert "block_csr_gradients_native" in found
    assert not any("int8" in name for name in found)


def test_no_unit_is_started_when_the_time_is_over(tmp_path):
    one = Run(tmp_path, "dry", 0.0, CPU, run.time.time() - 10.0, print)
    one.measure(0)
    assert {r["reason"] for r in records(tmp_path, "skipped")} == {"the time is over"}


def test_the_script_refuses_to_run_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(script.click.UsageError, match="expected a CUDA device"):
        script.main.main(["--output", str(tmp_path)], standalone_mode=False)


def test_the_script_starts_itself_again(tmp_path, monkeypatch):
    started = []

    def start(command):
        started.append(command)
        return Ended()

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(Popen=start))
    arguments = ["--output", str(tmp_path), "--dry-run", "--minutes", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        script.main.main(arguments, standalone_mode=False)
    assert ended.value.code == 1  # nothing was measured
    first = started[0]
    assert first[:2] == [sys.executable, script.__file__]
    assert first[2:7] == arguments
    assert first[7] == "--began"
    assert first[9:] == ["--worker", "0"]


def test_it_needs_no_package_that_a_machine_with_a_gpu_may_lack():
    code = (
        "import sys\n"
        "for name in ('torch_pruning', 'matplotlib', 'transformers', 'sklearn', 'onnx', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.gpu, sparsekit\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
