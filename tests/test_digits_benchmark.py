"""The comparison on digits takes every method from the tuples, resumes, and reports from its rows alone."""

import json
import sys
from pathlib import Path

import pytest
import torch

import sparsekit as sk
from sparsekit.pruning import CRITERIA, SEARCHES, SOLVERS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def digits(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "methods"))
    import digits  # noqa: PLC0415

    yield digits
    for name in ("digits", "digits_report"):
        sys.modules.pop(name)


def test_every_method_is_a_case(digits):
    found = list(digits.cases())
    assert {case.label.split(",")[0] for case in found} == {k.__name__ for k in (*CRITERIA, *SOLVERS, *SEARCHES)}
    assert {case.label for case in found if case.part == "initial"} == set(digits.INITIAL)
    assert len({(case.part, case.label) for case in found}) == len(found)


def test_rows_are_measured_once_and_reported(digits, monkeypatch, tmp_path, capsys):
    whole = digits.load()
    assert (len(whole.labels), len(whole.test_labels)) == (1437, 360)
    data = digits.Data(whole.images[:128], whole.labels[:128], whole.test_images[:32], whole.test_labels[:32])
    measured = []
    monkeypatch.setattr(digits, "load", lambda: data)
    monkeypatch.setattr(digits, "SPARSITIES", {"weights": (0.5,), "filters": (0.5,), "initial": (0.995,)})
    chosen = [case for case in digits.cases() if case.label == "Magnitude"]
    chosen.append(digits.Case("initial", "SynFlow", sk.SynFlow(rounds=30), allocation=sk.Global()))
    monkeypatch.setattr(digits, "cases", lambda: chosen)
    original, threads = digits.measure, torch.get_num_threads()
    monkeypatch.setattr(digits, "measure", lambda *given: measured.append(given[0].label) or original(*given))
    monkeypatch.setattr(digits, "train", lambda *given: None)
    path = tmp_path / "digits.json"
    for expected in (4, 0):
        monkeypatch.setattr(sys, "argv", ["digits", "--output", str(path), "--seeds", "0"])
        measured.clear()
        digits.main()
        assert len(measured) == expected
    torch.set_num_threads(threads)
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 5
    kept = {(row["part"], row["label"]): row["kept"] for row in rows if "kept" in row}
    assert kept["weights", "Magnitude"] == pytest.approx(0.5, abs=1e-3)
    assert kept["initial", "SynFlow"] == pytest.approx(0.005, abs=1e-3)
    collapsed = {row["label"]: row["collapsed"] for row in rows if row["part"] == "initial"}
    assert collapsed == {"Magnitude": True, "SynFlow": False}
    page = path.with_suffix(".md").read_text()
    assert "| SynFlow |" in page
    assert "SynFlow over Magnitude, before training" in page
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert "5 rows" in capsys.readouterr().out
