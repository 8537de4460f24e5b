"""The README says what is measured, and its examples run."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    text = generator.README.read_text()
    assert generator.written(text) == text, "run python benchmarks/readme.py"


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (names["again"](names["x"]) == names["fast"](names["x"])).all()
