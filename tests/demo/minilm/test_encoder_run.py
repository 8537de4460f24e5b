import io
import json

import pytest
from rich.console import Console

from sparsekit.demo.minilm.distill import Course
from sparsekit.demo.minilm.recipes import DENSE, FULL, QUICK, TWO_OF_FOUR, Recipe, Settings
from sparsekit.demo.minilm.report import EncoderReport, EncoderRow
from sparsekit.patterns import Block, Unstructured
from sparsekit.planning.machine import describe_machine
from sparsekit.pruning import Magnitude

HALF = Recipe("50 %", Unstructured(), Magnitude(), 0.5)
TINY = Settings(
    recipes=(
        DENSE,
        HALF,
        TWO_OF_FOUR,
        Recipe("blocks", Block(8, 8), course=Course(3, 60.0, 0.2, 0.5)),
        Recipe("75 %", Unstructured(), course=Course(3, 60.0, 0.5, 0.75), follows="50 %"),
    ),
    calibration=8,
    held_out=8,
    timing_s=0.01,
)


def row(**changes) -> EncoderRow:
    values = {
        "recipe": "90 %",
        "sparsity": 0.9,
        "cosine": 0.7,
        "retrieval": 0.4,
        "dense_ms": 20.0,
        "sparse_ms": 10.0,
        "megabytes": 50.0,
        "sparse_layers": 12,
        "layers": 12,
        "seconds": 3.0,
    }
    return EncoderRow(**{**values, **changes})


def printed(report: EncoderReport) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table())
    return console.file.getvalue()


def test_every_recipe_becomes_a_row_a_file_and_a_point(encoder, corpus, tmp_path, monkeypatch):
    run = pytest.importorskip("sparsekit.demo.minilm.run")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "load_corpus", lambda: corpus)
    console = Console(file=io.StringIO(), width=200)
    report = run.run_demo(TINY, tmp_path / "out", console, encoder)
    assert [found.recipe for found in report.rows] == [recipe.name for recipe in TINY.recipes]
    assert [found.sparsity for found in report.rows] == [0.0, 0.5, 0.5, 0.5, 0.75]
    assert report.rows[0].cosine == pytest.approx(1.0, abs=1e-4)
    assert all(found.layers == 12 for found in report.rows)
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == report.as_json()
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(TINY.recipes)
    assert "75 %" in console.file.getvalue()


def test_the_table_holds_the_figures_and_the_machine():
    report = EncoderReport((row(),), describe_machine(), "batch 8 x 128 tokens")
    text = printed(report)
    for figure in ("90.0%", "0.700", "40.0%", "20.0", "10.0", "2.00x", "12/12", "50.0", report.machine["cpu"]):
        assert figure in text
    assert report.as_json()["rows"][0]["speedup"] == 2.0


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 0), ({"sparse_ms": 20.0}, 1), ({"sparsity": 0.0, "sparse_ms": 20.0}, 0)],
)
def test_it_says_where_zeros_did_not_pay(changes, count):
    regrets = EncoderReport((row(**changes),), describe_machine(), "").regrets()
    assert len(regrets) == count
    assert all("did not pay" in sentence for sentence in regrets)


def test_zeros_have_to_beat_the_dense_model_that_was_compiled_too():
    dense = row(recipe="dense", sparsity=0.0, sparse_ms=12.0)
    assert EncoderReport((dense, row(sparse_ms=11.8)), describe_machine(), "").regrets()
    assert not EncoderReport((dense, row(sparse_ms=11.0)), describe_machine(), "").regrets()


@pytest.mark.parametrize("settings", [FULL, QUICK], ids=["full", "quick"])
def test_recipes_can_be_run_in_their_order(settings):
    done = {""}
    for recipe in settings.recipes:
        assert recipe.follows in done
        assert recipe.pattern is None or recipe.method is not None or recipe.course is not None
        done.add(recipe.name)
    assert len(done) == len(settings.recipes) + 1
