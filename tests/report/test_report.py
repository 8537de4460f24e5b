"""``sparsekit report``: what it draws, prints and refuses."""

import json
import sys

import numpy as np
import pytest

from sparsekit import cli
from sparsekit.report import draw_history, history_table, last_values
from sparsekit.report.lines import LONG, MANY, panels_of, shortened
from sparsekit.training import History

METHOD = "RigL(drop_fraction=0.3, end=0.75)"


def history(layers=3, steps=5, alike=False):
    """A run in which layer ``i`` ends at a sparsity of its own, and drop fractions and factors are told as well."""
    rows = []
    ends = [0.5] * layers if alike else [0.9 * (1 - i / layers) for i in range(layers)]
    for step in range(steps):
        share = step / max(1, steps - 1)
        row = {"step": step, "sparsity": {f"{i}.weight": share * end for i, end in enumerate(ends)}}
        if step:
            row |= {"drop_fraction": {"all": 0.3 * (1 - share)}, "factor": {"1.weight": 10.0 ** (2 * step)}}
        rows.append(row)
    return History(METHOD, rows)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.json"
    history().save(path)
    return path


def test_a_panel_per_series():
    panels = panels_of(history())
    assert [panel.name for panel in panels] == ["sparsity", "drop_fraction", "factor"]
    sparsity, drop, factor = panels
    assert [line.label for line in sparsity.lines] == ["0.weight", "1.weight", "2.weight"]
    np.testing.assert_allclose(sparsity.lines[1].values, [0, 0.15, 0.3, 0.45, 0.6])
    assert drop.layers == 0
    assert np.isnan(drop.lines[0].values[0])
    np.testing.assert_allclose(drop.lines[0].values[1:], [0.225, 0.15, 0.075, 0])
    assert [(line.label, line.place) for line in factor.lines] == [("1.weight", 1)], "the colour of its layer"


def test_lines_that_nobody_could_tell_apart_are_one():
    (sparsity, *_) = panels_of(history(alike=True))
    assert [line.label for line in sparsity.lines] == ["all 3 layers"]
    rows = [{"step": 0, "sparsity": {"a": 0.5, "b": 0.9, "c": 0.504}}]
    (panel,) = panels_of(History(METHOD, rows))
    assert [line.label for line in panel.lines] == ["a and 1 more", "b"]


def test_many_layers_have_no_lines():
    assert len(panels_of(history(layers=MANY))[0].lines) == MANY
    assert panels_of(history(layers=MANY + 1))[0].lines == ()


def test_infinite_values_are_not_drawn():
    rows = [{"step": 0, "sparsity": {"a": 0.5}, "factor": {"all": float("inf")}}]
    assert np.isnan(panels_of(History(METHOD, rows))[1].values).all()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["0.weight", "2.weight"], ["0.weight", "2.weight"]),
        (
            [f"model.encoder.layers.{i}.attention.query.weight" for i in (3, 11)],
            ["layers.3", "layers.11"],
        ),
        (["a" * 50 + ".weight"], ["..." + ("a" * 50 + ".weight")[3 - LONG :]]),
        (
            ["model.layers.0.attention.query.weight", "model.layers.0.mlp.weight"],
            ["0.attention.query", "0.mlp"],
        ),
    ],
)
def test_long_names(names, short):
    assert shortened(names) == short
    assert max(map(len, shortened(names))) <= LONG


@pytest.mark.parametrize(("layers", "steps"), [(1, 5), (3, 1), (3, 5), (MANY, 40), (MANY + 1, 1), (50, 40)], ids=str)
def test_pictures(tmp_path, layers, steps):
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.png"
    draw_history(history(layers, steps), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_shows_the_numbers(tmp_path, monkeypatch):
    """The lines of the figure itself, the logarithm where values go over decades, and the range of many layers."""
    figures = pytest.importorskip("matplotlib.figure")
    seen = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path, dpi: seen.append(figure))
    for layers in (3, 50):
        draw_history(history(layers), tmp_path / "run.png")
    few, many = seen
    top, drop, factor = few.axes
    np.testing.assert_allclose(top.lines[2].get_ydata(), np.linspace(0, 0.3, 5))
    assert list(top.lines[2].get_xdata()) == list(range(5))
    assert (top.get_ylabel(), drop.get_ylabel(), factor.get_ylabel()) == ("sparsity", "drop fraction", "factor")
    assert (top.get_yscale(), drop.get_yscale(), factor.get_yscale()) == ("linear", "linear", "log")
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["0.weight", "1.weight", "2.weight"]
    assert drop.get_legend() is None
    assert few.get_suptitle() == "RigL"
    assert top.get_title(loc="left") == "drop_fraction=0.3, end=0.75"
    (median,) = many.axes[0].lines
    np.testing.assert_allclose(median.get_ydata()[-1], 0.9 * (1 - 24.5 / 50))
    (band,) = many.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(0.9)


def test_the_table_has_the_last_values():
    assert last_values(history()) == {
        "sparsity": {"0.weight": 0.9, "1.weight": pytest.approx(0.6), "2.weight": pytest.approx(0.3)},
        "drop_fraction": {"all": 0.0},
        "factor": {"1.weight": 1e8},
    }
    table = history_table(history())
    assert [column.header for column in table.columns] == ["layer", "sparsity", "drop fraction", "factor"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["0.weight", "1.weight", "2.weight", "whole run"]
    assert cells[1] == ["90.00%", "60.00%", "30.00%", ""]
    assert cells[3] == ["", "1e+08", "", ""]


def test_the_command_prints_a_table(capsys, saved):
    status, out, err = run(capsys, saved)
    assert (status, err) == (0, "")
    assert " ".join(out.split()).startswith(f"{METHOD}, after 4 steps")
    assert "60.00%" in out
    assert "No picture: give --output to draw one." in out


def test_the_command_prints_json_and_draws(capsys, saved, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "run.svg"
    status, out, err = run(capsys, saved, "--json", "--output", picture)
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told == {"method": METHOD, "steps": 4, "last": last_values(history()), "output": str(picture)}
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the history of a run, as JSON, got Expecting value"),
        ("{}", "as JSON, got one without 'method'"),
        ("[1]", "expected the history of a run, as JSON, got list indices"),
        ('{"method": "A()", "rows": []}', "as JSON, got no rows"),
        ('{"method": "A()", "rows": [7]}', "as JSON, got row 0, which is 7"),
        ('{"method": "A()", "rows": [{"step": 1}]}', "as JSON, got row 0 without sparsity"),
        ('{"method": "A()", "rows": [{"step": "1", "sparsity": {}}]}', "got row 0 with step '1'"),
        ('{"method": "A()", "rows": [{"step": 1, "sparsity": 0.5}]}', "got row 0 with sparsity 0.5"),
        ('{"method": "A()", "rows": [{"step": 1, "sparsity": {"a": null}}]}', "with sparsity {'a': None}"),
    ],
)
def test_other_files_are_refused(capsys, tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    status, out, err = run(capsys, path)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("run.txt", "expected a file .png, .svg, .pdf, got"),
        ("none/run.png", "expected a file in a folder that exists, got"),
    ],
)
def test_other_pictures_are_refused(capsys, saved, tmp_path, output, message):
    status, out, err = run(capsys, saved, "--output", tmp_path / output)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert run(capsys, tmp_path / "missing.json")[0] == 2


def test_without_matplotlib_it_says_what_to_install(capsys, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["sparsekit.cli.app"], "find_spec", lambda name: None)
    status, _, err = run(capsys, saved, "--output", tmp_path / "run.png")
    assert status == 2
    assert "expected matplotlib, which draws it; pip install 'sparsekit[report]'" in err
