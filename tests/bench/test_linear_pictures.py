"""The pictures of the benchmark are drawn from what it saves."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from sparsekit.bench import draw_linear
from sparsekit.bench.pictures import style
from sparsekit.bench.pictures.growth import fit, lines_of
from sparsekit.bench.pictures.roofline import draw_roofline
from sparsekit.bench.pictures.selection import Measured, fastest_by_sparsity
from sparsekit.bench.pictures.style import short

MACHINE = {"cpu": "a processor", "torch": "2", "commit": None}
README = Path(__file__).parent.parent.parent / "benchmarks" / "readme.py"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(style, "DPI", 20)


def row(kernel, sparsity, speedup, **changes):
    given = {"weights": "float32", "pattern": "Unstructured()", "sizes": [16, 1024, 4096], "threads": 1, "peer": ""}
    given |= {"memory": "warm", "floor": None} | changes
    batch, columns, rows = given["sizes"]
    kept = int(columns * rows * (1 - sparsity))
    return {
        **given,
        "case": f"{given['pattern']} M={batch} K={columns} N={rows}",
        "kernel": kernel,
        "sparsity": sparsity,
        "seconds": 1.0 / speedup,
        "dense_seconds": 1.0,
        "kept": kept,
        "kept_flops": 2 * batch * kept * speedup,
        "intensity": 0.0 if given["peer"] else 3.0 * batch,
        "speedup": speedup,
    }


def content_of(*rows):
    return {"machine": MACHINE, "rows": list(rows), "peaks": {"1": {"flops": 1e9, "bandwidth": 1e7}}}


def ours():
    for sizes in ([16, 1024, 4096], [1, 1024, 4096]):
        yield row("dense_linear_mkl", 0.0, 1.0, sizes=sizes)
        for pattern in ("Unstructured()", "Block(16, 16)"):
            for sparsity in (0.5, 0.8):
                yield row("slow", sparsity, 0.9, sizes=sizes, pattern=pattern)
                yield row("fast", sparsity, 0.8 / (1 - sparsity), sizes=sizes, pattern=pattern)
    yield row("fast", 0.5, 1.7, weights="bfloat16", sizes=[32, 1024, 4096], pattern="Block(32, 32)")
    yield row("FBGEMM SparseDenseMM", 0.8, 2.0, peer="torch 2")
    yield row("OpenVINO", 0.0, 1.1, peer="openvino 3")
    yield row("OpenVINO int8", 0.0, 4.5, peer="openvino 3")


def both(rows):
    """The rows, and what they would be if weights from memory took twice the time of sparse and of others' calls."""
    for found in rows:
        half = 1.0 if found["kernel"].startswith("dense") else 0.5
        slower = {key: found[key] * half for key in ("speedup", "kept_flops")} | {"seconds": found["seconds"] / half}
        yield from (found, {**found, **slower, "memory": "cold"})


def test_three_pictures_are_written(tmp_path):
    made = draw_linear(content_of(*ours()), tmp_path / "amd.epyc")
    assert [path.name for path in made] == [f"amd.epyc-{name}.png" for name in ("crossover", "roofline", "growth")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_what_comes_from_memory_is_in_every_picture_and_what_is_promised_in_one(tmp_path):
    rows = list(ours())
    promised = [{**found, "floor": 2.0} if found["kernel"] == "fast" else found for found in rows]
    pictures = [
        [path.read_bytes() for path in draw_linear(content_of(*shown), tmp_path / "x")]
        for shown in (rows, both(rows), promised)
    ]
    assert all(warm != cold for warm, cold in zip(*pictures[:2]))
    assert [warm != judged for warm, judged in zip(pictures[0], pictures[2])] == [True, False, False]


def test_a_shape_with_as_many_rows_is_drawn_only_where_the_usual_one_is_not():
    eight_bits = [row("fast", 0.5, 3.0, weights="int8", sizes=[1, *sides]) for sides in ((2048, 2048), (1024, 4096))]
    measured = Measured.of(content_of(*eight_bits, *ours()))
    assert measured.shape("int8", 1) == "K=1024 N=4096"


@pytest.mark.parametrize("peaks", [{}, {"1": {}}])
def test_a_machine_that_was_not_measured_is_drawn_without_a_roof(tmp_path, peaks):
    draw_roofline(Measured.of({**content_of(*ours()), "peaks": peaks}), tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_nothing_is_drawn_without_sparse_rows_or_without_matplotlib(tmp_path, monkeypatch):
    assert draw_linear(content_of(row("dense_linear_mkl", 0.0, 1.0)), tmp_path / "x") == []
    assert draw_linear(content_of({**row("compile", 0.5, 1.0), "sizes": []}), tmp_path / "x") == []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw_linear(content_of(*ours()), tmp_path / "x") == []
    assert not list(tmp_path.iterdir())


def test_the_pictures_show_one_thread_and_the_shape_with_the_peers():
    others = [row("fast", 0.5, 9.0, sizes=[16, 2048, 2048]), row("fast", 0.5, 9.0, threads=2)]
    uneven = [row("fast", 0.5, 9.0, sizes=[33, 1537, 771])]
    measured = Measured.of(content_of(*both([*others, *uneven, *ours()])))
    assert measured.threads == 1
    assert measured.kinds() == ["float32", "bfloat16"]
    assert measured.batches("float32") == [1, 16]
    assert measured.shape("float32", 16) == "K=1024 N=4096"
    assert max(found["speedup"] for found in measured.rows) < 9.0
    assert {found["memory"] for found in (*measured.rows, *measured.peers)} == {"warm"}
    assert [found["kernel"] for found in measured.cold] == [found["kernel"] for found in measured.rows]
    assert {found["memory"] for found in measured.cold} == {"cold"}
    best = fastest_by_sparsity(measured.at("float32", 16))
    assert list(best) == [0.5, 0.8]
    assert best[0.8]["kernel"] == "fast"
    assert {found["kernel"] for found in measured.at("float32", 16, measured.peers)} == {
        "FBGEMM SparseDenseMM",
        "OpenVINO",
        "OpenVINO int8",
    }


def test_the_line_that_fits_is_found():
    line = [{"kept": kept, "seconds": 2e-9 * kept + 3e-6} for kept in (1000, 2000, 4000)]
    assert fit(line) == pytest.approx((2.0, 3.0, 1.0))
    assert fit([*line, {"kept": 8000, "seconds": 3e-6}])[2] < 0.5
    drawn = lines_of(list(ours())[:9])
    assert {kernel for _, kernel in drawn} == {"fast"}
    assert all([found["kept"] for found in line] == sorted(found["kept"] for found in line) for line in drawn.values())


def test_patterns_are_called_as_they_are_said():
    said = [short(pattern) for pattern in ("Unstructured()", "Block(16, 1)", "NM(2, 4)")]
    assert said == ["unstructured", "blocks 16x1", "2:4"]


def test_the_readme_has_the_fastest_kernel_of_each_cell_and_the_others_beside_it(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("readme_tables", README)
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    results = tmp_path / "benchmarks" / "results"
    shutil.copytree(readme.RESULTS / "methods", results / "methods")
    for old in readme.RESULTS.glob("*.json"):
        shutil.copy(old, results)
    two = [row("fast", 0.8, 2.0, threads=2), row("fast", 0.5, 3.0, sizes=[33, 1537, 771])]
    (results / "linear").mkdir()
    promised = row("fast", 0.5, 1.7, weights="bfloat16", sizes=[64, 1024, 4096], pattern="Block(32, 32)", floor=1.7)
    content = content_of(*both([*ours(), *two, promised]))
    content["peers"] = {"OpenVINO": "openvino 3", "scipy CSR": "absent: No module named 'scipy'"}
    (results / "linear" / "machine.json").write_text(json.dumps(content))
    monkeypatch.setattr(readme, "RESULTS", results)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    table = readme.kernel_table()
    assert "| float32 Unstructured() M=16 | 1000.000 / 1000.000 | 1.60x / 0.80x | 4.00x / 2.00x |" in table
    assert "| bfloat16 Block(32, 32) M=32 | 1000.000 / 1000.000 | 1.70x / 0.85x |  |" in table
    assert "| bfloat16 Block(32, 32) M=64 | 1000.000 / 1000.000 | 1.70x / 0.85x\u25bc |  |" in table
    assert "Of the 1 promises over all shapes and threads, kept are 1 with repeated calls and 0 with weights" in table
    assert "K=1024 N=4096 on 2 threads 0.50" in table
    assert "K=1537 N=771 on 1 thread, other M, 3.00x to 3.00x" in table
    assert "| FBGEMM SparseDenseMM, which reads the zeros | 2.00x / 2.00x |  |" in table
    assert "| OpenVINO int8, dense | 0.89x / 0.89x |  |" in table
    assert "With openvino 3; not there: scipy CSR (absent: No module named 'scipy')." in table
    assert "`benchmarks/results/linear/machine.csv`" in table
    assert "| whole model |" not in table
    (results / "model").mkdir()
    whole = {**row("compile", 0.9, 2.0), "case": "MiniLM", "dense_kernel": "eager"}
    (results / "model" / "machine.json").write_text(json.dumps(content_of(whole, row("eager", 0.0, 1.0))))
    table = readme.kernel_table()
    assert "| MiniLM |  | 1 | 90% | eager | 1000.0 | 500.0 | 2.00x |" in table
    limited = {**content_of({**whole, "seconds": 0.8, "speedup": 1.25}), "machine": {**MACHINE, "isa_limit": "avx2"}}
    (results / "model" / "machine-avx2.json").write_text(json.dumps(limited))
    table = readme.kernel_table()
    assert "| MiniLM | avx2 | 1 | 90% | eager | 1000.0 | 800.0 | 1.25x |" in table
    assert "| MiniLM |  | 1 | 90% | eager | 1000.0 | 500.0 | 2.00x |" in table
    assert "| 0% | eager" not in table
