"""``sparsekit methods`` lists every part, and docs/methods.md is what it prints."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import sparsekit as sk
from sparsekit import cli
from sparsekit.cli.methods import CONTROLS, FAMILIES, cite, describe, gather_methods, markdown, method_tables
from sparsekit.patterns import Pattern

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
PARTS = [part for _, parts in FAMILIES.values() for part in parts]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_part_says_what_it_does_and_where_it_comes_from(part):
    row = describe(part)
    assert row["does"].endswith((".", ";")), "the first paragraph is one sentence, or a few"
    assert "``" not in row["does"]
    assert row["source"] or part.__name__ in CONTROLS
    assert getattr(sk, part.__name__, None) is part, "methods are public"


def test_the_page_is_what_the_command_prints():
    assert PAGE.read_text() == markdown(), "run sparsekit methods --markdown > docs/methods.md"


def test_needs_come_from_the_statistics():
    needs = {row["name"]: row["needs"] for rows in gather_methods().values() for row in rows}
    assert needs["Magnitude"] == needs["Unstructured"] == needs["ERK"] == []
    assert needs["Wanda"] == needs["SparseGPT"] == needs["BatchNormScale"] == ["batches"]
    assert needs["MagnitudeGradient"] == needs["PCAS"] == ["batches", "loss"]
    assert needs["Global"] == ["scores"]
    assert needs["GradualPruning"] == ["sparsity"]
    assert needs["SelectiveWeightDecay"] == ["sparsity", "penalty"]
    assert needs["SRSTE"] == [], "its pattern fixes the sparsity"


def test_a_source_ends_with_its_paragraph():
    class Part(Pattern):
        """Do ``this``, like :class:`~sparsekit.pruning.SNIP`.

        Source: A, B 2020, "A title
        in two lines", eq. 1.

        More text. Source: no.
        """

    assert describe(Part) == {
        "name": "Part",
        "does": "Do `this`, like `SNIP`.",
        "needs": [],
        "source": 'A, B 2020, "A title in two lines", eq. 1.',
    }


def test_papers_are_cited_by_first_author_and_year():
    assert cite('Li, Kadav 2016, "Pruning Filters", eq. 3.1; He, Kang 2018, "Soft 2019"') == "Li 2016, He 2018"
    assert cite(None) == ""
    assert all(cite(row["source"]) for rows in gather_methods().values() for row in rows if row["source"])


def test_tables_fit_100_columns():
    console = Console(width=100, record=True, file=io.StringIO())
    for table in method_tables():
        console.print(table)
    text = console.export_text()
    assert all(part.__name__ in text for part in PARTS)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("options", [[], ["--json"], ["--markdown"]])
def test_the_command(capsys, options):
    with pytest.raises(SystemExit) as ended:
        cli.main(["methods", *options])
    out = capsys.readouterr().out
    assert not ended.value.code
    if options == ["--json"]:
        assert json.loads(out) == gather_methods()
    elif options:
        assert out == markdown()
    else:
        assert "SparseGPT" in out
