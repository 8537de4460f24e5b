import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from sparsekit.demo.cnn.learning import Course
from sparsekit.demo.cnn.network import fresh, inside_blocks
from sparsekit.demo.cnn.race import Race
from sparsekit.demo.cnn.recipes import DENSE, FULL, QUICK, Recipe, Settings
from sparsekit.demo.cnn.report import NetworkReport, NetworkReports, NetworkRow
from sparsekit.patterns import Filter, KernelSlice, Unstructured

HALF = Recipe("50 %", Unstructured(), 0.5)
SMALLER = Recipe("smaller", Filter(), 0.5, inside_blocks, shrinks=True)
TINY = Settings(
    recipes=(DENSE, HALF, Recipe("kernels", KernelSlice(), 0.75), SMALLER),
    dense=Course(2, 0.1),
    course=Course(2, 0.05),
    networks=("tiny",),
    network_recipes=(DENSE, HALF),
    timing_s=0.0,
    widths=(4, 8),
)
ROW = NetworkRow("90 %", 0.9, 20.0, 10.0, 5.0, 7, 9, 3.0, 0.987, "frozen")


def tiny(name):
    torch.manual_seed(0)
    assert name == "tiny"
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=32), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).eval()


@pytest.fixture
def ran(digits, tmp_path, monkeypatch):
    run = pytest.importorskip("sparsekit.demo.cnn.run")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "load_digits", lambda: digits)
    monkeypatch.setattr(run, "load_network", tiny)
    console = Console(file=io.StringIO(), width=200)
    return run.run_cnn(TINY, tmp_path / "out", console), tmp_path / "out", console.file.getvalue()


def test_every_recipe_becomes_a_row_and_a_file(ran):
    results, out, printed = ran
    small, large = results.reports
    assert [row.recipe for row in small.rows] == ["dense, prepacked", "50 %", "kernels", "smaller"]
    assert [row.recipe for row in large.rows] == ["dense, prepacked", "50 %"]
    assert [round(row.sparsity, 1) for row in large.rows] == [0.0, 0.0]  # the first convolution holds 108 of 116
    assert [round(row.sparsity, 1) for row in small.rows[:3]] == [0.0, 0.5, 0.7]
    assert all(0.0 <= row.accuracy <= 1.0 for row in small.rows)
    assert {row.accuracy for row in large.rows} == {None}
    assert [row.layers for row in small.rows] == [6] * 4
    assert json.loads((out / "cnn.json").read_text()) == results.as_json()
    assert (out / "cnn.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.glob("cnn-*.safetensors"))) == 4
    assert "Residual network on digits" in printed
    assert "tiny, 1 image of 224 px" in printed


def test_half_the_filters_inside_blocks_are_cut_out(ran):
    dense, *_, smaller = ran[0].reports[0].rows
    left = round((1 - smaller.sparsity) * 1220)
    # half of both convolutions of both blocks; at most one removed channel of a block is read on, as a constant
    assert left - 644 in {0, 9 * 4, 9 * 8, 9 * 4 + 9 * 8}
    assert smaller.megabytes < 0.8 * dense.megabytes


def test_a_race_is_against_the_fastest_dense_way(digits, monkeypatch):
    model = fresh((4,)).eval()
    race = Race(model, digits.images[:2], 0.0)
    race.ways = {"slow": lambda: None, "quick": lambda: None}
    times = {"slow": 3.0, "quick": 2.0, "compiled": 1.0}
    monkeypatch.setattr("sparsekit.demo.cnn.race.fastest", lambda calls, budget: times)
    pruned = fresh((4,))
    nn.init.zeros_(pruned[3].conv1.weight)
    row = race.row("name", (pruned, pruned), 1.0)
    assert (row.dense_way, row.dense_ms, row.sparse_ms, row.speedup) == ("quick", 2000.0, 1000.0, 2.0)
    assert row.sparsity == pytest.approx(144 / (36 + 144 + 144))
    assert row.megabytes == sum(t.nbytes for t in pruned.state_dict().values()) / 1e6
    assert row.sparse_layers == 0


def table_of(*rows) -> str:
    report = NetworkReport(rows, {"cpu": "a cpu", "threads": 2, "torch": "2"}, "1 image", "a network")
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table())
    return console.file.getvalue()


def test_the_table_holds_the_figures_and_no_accuracy_where_nothing_was_learned():
    judged = table_of(ROW)
    for figure in ("a network, 1 image", "90.0%", "98.7%", "20.00", "10.00", "2.00x", "7/9", "5.00", "3.0", "frozen"):
        assert figure in judged
    timed = table_of(replace(ROW, accuracy=None))
    assert "accuracy" in judged
    assert "accuracy" not in timed
    assert "random weights" in timed


def test_results_name_the_network_and_the_speedup():
    report = NetworkReport((ROW,), {"cpu": "a cpu"}, "1 image", "a network")
    found = NetworkReports((report,)).as_json()["networks"]
    assert [(n["network"], n["rows"][0]["speedup"], n["machine"]["cpu"]) for n in found] == [
        ("a network", 2.0, "a cpu")
    ]


@pytest.mark.parametrize("settings", [FULL, QUICK], ids=["full", "quick"])
def test_names_of_recipes_differ_and_begin_with_the_dense_one(settings):
    names = [recipe.name for recipe in settings.recipes]
    assert len(set(names)) == len(names)
    assert settings.recipes[0] == DENSE
