"""Every method with what it does, what it needs and its paper, read from the parts themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from sparsekit.patterns import PATTERNS, Pattern
from sparsekit.pruning import ALLOCATIONS, CRITERIA, SEARCHES, SOLVERS, Allocation, Criterion, Search, Solver
from sparsekit.pruning.prune import calls_loss, reads_batches
from sparsekit.training import TRAINING_METHODS, TrainingMethod

FAMILIES: dict[str, tuple[str, Sequence[type]]] = {
    "criteria": ("Score every weight, higher = keep; the pattern then selects.", CRITERIA),
    "solvers": ("Remove weights of a layer, and move the others to make up for it.", SOLVERS),
    "searches": ("Try masks on the whole model, and learn from how well it does.", SEARCHES),
    "training": ("Prune while the user's own loop trains the model.", TRAINING_METHODS),
    "allocations": ("Share one budget of zeros among the layers.", ALLOCATIONS),
    "patterns": ("Say which sets of kept weights are legal.", PATTERNS),
}
CONTROLS = frozenset({"Random", "PerLayer", "Unstructured"})
"""Parts that are nobody's idea in particular, and name no paper."""

NEEDS = """Batches are what the model takes; a loss is `loss_fn(model, batch)`. What has neither beside it reads the \
weights alone; scores are those of the method that an allocation is used with. Of training methods, those that need a \
sparsity cannot learn it, and a penalty is `run.penalty()`, which the user adds to the loss."""
PREAMBLE = f"""# Methods

A method is a criterion, a solver or a search; `sk.prune` takes it together with a pattern and an allocation. Training
methods go to `sk.attach` instead.
{NEEDS}
`help(sk.SparseGPT)` says more of each.

This page is what `sparsekit methods --markdown` prints.
"""


def gather_methods() -> dict[str, list[dict[str, Any]]]:
    """Return each family's parts as JSON types: name, what it does, what it needs, and its paper or None."""
    return {family: [describe(part) for part in parts] for family, (_, parts) in FAMILIES.items()}


def describe(part: type) -> dict[str, Any]:
    """Read one part: its first sentence, and the paragraph of its docstring that starts with ``Source:``."""
    text = inspect.cleandoc(part.__doc__ or "")
    source = re.search(r"^Source: (.*?)(?:\n\n|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return {
        "name": part.__name__,
        "does": _flat(text.split("\n\n")[0]),
        "needs": needs_of(part),
        "source": _flat(source[1]) if source else None,
    }


def needs_of(part: type) -> list[str]:
    """What a part reads beside the weights, with its default settings."""
    if issubclass(part, Pattern):
        return []
    made = part()
    assert isinstance(made, (Allocation, Criterion, Solver, Search, TrainingMethod))
    if isinstance(made, TrainingMethod):
        return _needs_in_training(made)
    if isinstance(made, Allocation):
        return ["scores"] * made.compares_scores + ["batches"] * made.needs_batches
    return ["batches"] * reads_batches(made) + ["loss"] * calls_loss(made)


def _needs_in_training(method: TrainingMethod) -> list[str]:
    free = not method.default_pattern.fixes_sparsity and not method.learns_sparsity
    reads = any(map(reads_batches, method.criteria()))
    calls = any(map(calls_loss, method.criteria()))
    return ["batches"] * reads + ["loss"] * calls + ["sparsity"] * free + ["penalty"] * method.has_penalty


def method_tables() -> list[Table]:
    """Return a table per family, made for 100 columns."""
    return [_table(family, rows) for family, rows in gather_methods().items()]


def markdown() -> str:
    """Return the page ``docs/methods.md``."""
    parts = [PREAMBLE]
    for family, rows in gather_methods().items():
        parts.append(f"## {family.capitalize()}\n\n{FAMILIES[family][0]}\n")
        lines = ["| name | what it does | needs | source |", "|---|---|---|---|"]
        for row in rows:
            cells = (f"`{row['name']}`", row["does"], ", ".join(row["needs"]), row["source"] or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _flat(text: str) -> str:
    """``text`` in one line, without the marks of reStructuredText that Markdown does not know."""
    plain = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", " ".join(text.split()))
    return plain.replace("``", "`")


def cite(source: str | None) -> str:
    """The first author and the year of each paper of a source: ``Han 2015``."""
    papers = [re.match(r"(\w+).*?\b((?:19|20)\d\d)\b", part.strip()) for part in (source or "").split(";")]
    return ", ".join(f"{paper[1]} {paper[2]}" for paper in papers if paper)


def _table(family: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"{family}: {FAMILIES[family][0]}", title_justify="left", expand=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it does", ratio=1)
    table.add_column("needs", no_wrap=True)
    table.add_column("paper", max_width=16)
    for row in rows:
        cells = (row["name"], row["does"].replace("`", ""), ", ".join(row["needs"]), cite(row["source"]))
        table.add_row(*map(escape, cells))
    return table
