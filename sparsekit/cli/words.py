"""What the user writes for a method or a pattern, and what it becomes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sparsekit.errors import SparsekitError
from sparsekit.patterns import NM, Block, Pattern, Unstructured
from sparsekit.pruning import CRITERIA, SEARCHES, SOLVERS, Criterion, Search, Solver

KINDS: tuple[type[Criterion] | type[Solver] | type[Search], ...] = (*CRITERIA, *SOLVERS, *SEARCHES)
METHODS = {kind.__name__.lower(): kind for kind in KINDS}
GROUP = re.compile(r"(\d+):(\d+)")
SIDES = re.compile(r"(\d+)x(\d+)")


class MethodName(click.ParamType):  # type: ignore[type-arg]
    """A criterion or solver by its name, with its default settings."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the method called ``value``."""
        kind = METHODS.get(str(value).lower())
        if kind is None:
            self.fail(f"expected one of {', '.join(METHODS)}, got {value!r}", param, ctx)
        return kind()


class PatternName(click.ParamType):  # type: ignore[type-arg]
    """``unstructured``, ``2:4`` (N:M) or ``16x16`` (blocks)."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the pattern that ``value`` describes."""
        try:
            pattern = read_pattern(str(value).lower())
        except SparsekitError as error:
            self.fail(str(error), param, ctx)
        if pattern is None:
            self.fail(
                f"expected unstructured, N:M such as 2:4, or ROWSxCOLUMNS such as 16x16, got {value!r}", param, ctx
            )
        return pattern


class OutputFile(click.Path):
    """A file to write; a folder that is missing is found out before the work instead of after it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ``value`` as a path whose folder exists."""
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        if not path.parent.is_dir():
            self.fail(f"expected a file in a folder that exists, got {str(value)!r}", param, ctx)
        return path


def read_pattern(text: str) -> Pattern | None:
    """Return the pattern that ``text`` describes, or None."""
    if text == "unstructured":
        return Unstructured()
    if found := GROUP.fullmatch(text):
        return NM(int(found[1]), int(found[2]))
    if found := SIDES.fullmatch(text):
        return Block(int(found[1]), int(found[2]))
    return None
