"""Rows, promises and tables of a run on a GPU."""

import csv
import io
import json

import pytest
from rich.console import Console

from sparsekit.bench.gpu.cases import DRY_GPU_CASES, GPU_CASES, QUICK_GPU_CASES, Floor, GpuLinear
from sparsekit.bench.gpu.rows import GpuRow, fastest_kernels, rows_of, save_rows, table_of

FLOORS = {0.5: Floor(2.0, {"peer": 4.0}), 0.9: Floor()}
TIMES = {(0.0, "a"): 6e-6, (0.0, "b"): 4e-6, (0.5, "slow"): 3e-6, (0.5, "quick"): 2.5e-6, (0.5, "peer"): 5e-6}
ABOUT = {
    key: {"kind": {0.0: "dense"}.get(key[0], "peer" if key[1] == "peer" else "kernel"), "operations": 8.0, "bytes": 4}
    for key in TIMES
}


def rows():
    return rows_of("case", FLOORS, TIMES, ABOUT)


def test_everything_is_compared_with_the_fastest_dense_way_and_kernels_with_peers():
    found = {row.way: row for row in rows()}
    assert {row.dense_way for row in found.values()} == {"b"}
    assert found["quick"].speedup == pytest.approx(1.6)
    assert found["quick"].over_peers == {"peer": 2.0}
    assert (found["quick"].floor, found["peer"].floor, found["a"].floor) == (2.0, None, None)


def test_the_fastest_kernel_keeps_or_misses_promises():
    (best,) = fastest_kernels(rows())
    assert best.way == "quick"
    assert best.misses() == ["1.60x dense, 2x is promised", "2.00x peer, 4x is promised"]
    (best,) = fastest_kernels(rows_of("case", {0.5: Floor(1.5, {"peer": 2.0, "absent": 9.0})}, TIMES, ABOUT))
    assert best.misses() == []


def test_rows_are_what_they_were_after_json():
    assert [GpuRow.from_json(json.loads(json.dumps(row.as_json()))) for row in rows()] == rows()


def test_a_table_shows_shares_and_promises():
    text = io.StringIO()
    Console(file=text, width=200).print(table_of(rows(), {"flops": 6.4e6, "bandwidth": 3.2e6}))
    line = next(line for line in text.getvalue().splitlines() if "quick" in line)
    for part in ("50%", "4.0", "2.5", "1.60x", "2x", "50%", "50%", "2.00x peer (of 4x)"):
        assert part in line
    assert "slow" not in text.getvalue()


def test_what_is_saved_says_where_it_comes_from(tmp_path):
    machine = {"gpu": "NVIDIA H100", "commit": "abc", "torch": "2", "triton": "3", "python": "3.12", "cpu": "x"}
    save_rows(rows(), tmp_path / "deep" / "gpu.json", {"machine": machine, "failed": []})
    content = json.loads((tmp_path / "deep" / "gpu.json").read_text())
    assert content["machine"] == machine
    assert content["rows"] == [row.as_json() for row in rows()]
    with (tmp_path / "deep" / "gpu.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["way"] for line in lines] == [row.way for row in rows()]
    assert {line["gpu"] for line in lines} == {"NVIDIA H100"}
    save_rows([], tmp_path / "gpu.json", {"machine": machine})


def test_the_cases_promise_what_was_asked_for():
    names = [str(case) for case in GPU_CASES if not getattr(case, "tunes_peer", False)]
    assert len(set(names)) == len(names)
    assert QUICK_GPU_CASES == GPU_CASES[: len(QUICK_GPU_CASES)]
    floors = {
        (str(c.pattern), c.batch, c.rows): c.floors for c in GPU_CASES if isinstance(c, GpuLinear) and not c.backward
    }
    assert [floors["Block(64, 64)", 1024, 8192][zeros].dense for zeros in (0.5, 0.8, 0.9)] == [1.5, 3.5, 6.0]
    assert [floors["Block(32, 32)", 4096, 4096][zeros].dense for zeros in (0.7, 0.9)] == [1.5, 3.5]
    assert [floors["NM(2, 4)", batch, 4096][0.5].dense for batch in (1, 16, 1024, 4096)] == [1.55, 1.4, 1.3, 1.3]
    assert [floors["Unstructured()", 16, 4096][zeros].dense for zeros in (0.5, 0.7, 0.9)] == [1.35, 2.0, 3.5]
    assert all(case.rows <= 64 for case in DRY_GPU_CASES if isinstance(case, GpuLinear))
