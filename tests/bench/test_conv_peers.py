import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from sparsekit.bench import ConvCase, ConvLayer
from sparsekit.patterns import OnePerKernel, Unstructured


@pytest.fixture(scope="module")
def peers():
    path = Path(__file__).parent.parent.parent / "benchmarks" / "conv_peers.py"
    spec = importlib.util.spec_from_file_location("conv_peers", path)
    module = sys.modules["conv_peers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def right(conv, x, threads):
    return lambda: conv(x)


def wrong(conv, x, threads):
    return lambda: conv(x) + 1.0


def missing(conv, x, threads):
    raise ImportError("No module named 'missing'")


def test_a_peer_that_is_missing_or_wrong_is_absent_with_the_reason(peers, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"right": right, "wrong": wrong, "missing": missing})
    told = {"right": "1.0"}
    rows = peers.compare([ConvCase(ConvLayer(3, 4, 3, 6), Unstructured(), {0.9: 3.8})], 1, 0.0, told)
    libraries = {row.library for row in rows}
    assert libraries - {"sparsekit"} == {"torch", "right"}
    assert told["right"] == "1.0"
    assert told["wrong"].startswith("absent: 3x3 3->4 at 6x6: wrong: expected errors of at most")
    assert told["missing"] == "absent: No module named 'missing'"
    assert min(row.seconds for row in rows if row.library == "torch") > 0.0
    assert max(row.speedup for row in rows if row.library == "torch") == 1.0


def test_each_layer_is_compared_once_at_the_sparsity_that_is_shown(peers):
    found = peers.cases()
    assert len(found) == 7
    given = [case for group in found.values() for case in group]
    assert {case.batch for case in given} == {1}
    assert {case.dtype for case in given} == {torch.float32}
    assert {sparsity for case in given for sparsity in case.floors} == {0.9, 8 / 9}
    assert {case.pattern for case in given if 8 / 9 in case.floors} == {OnePerKernel()}


def test_what_is_absent_is_in_the_file(peers, monkeypatch, tmp_path, capsys):
    layer = ConvLayer(3, 4, 1, 6)
    monkeypatch.setattr(peers, "PEERS", {"a_library_that_nobody_has": missing})
    monkeypatch.setattr(peers, "cases", lambda: {layer: [ConvCase(layer, Unstructured(), {0.9: None})]})
    monkeypatch.setattr(sys, "argv", ["conv_peers", "--output", str(tmp_path / "x.json"), "--seconds", "0"])
    before = torch.get_num_threads()
    peers.main()
    torch.set_num_threads(before)
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["libraries"]["a_library_that_nobody_has"].startswith("absent: ")
    assert report["libraries"]["xnnpack"].startswith("absent: ")
    assert {row["layer"] for row in report["rows"]} == {"1x1 3->4 at 6x6"}
    assert "a_library_that_nobody_has: absent" in capsys.readouterr().out
