"""What the user writes for a method or a pattern, and what it becomes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from sparsekit.errors import SparsekitError
from sparsekit.patterns import (
    NM,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    Pattern,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.pruning import ALLOCATIONS, CRITERIA, SEARCHES, SOLVERS, Criterion, Search, Solver

KINDS: tuple[type[Criterion] | type[Solver] | type[Search], ...] = (*CRITERIA, *SOLVERS, *SEARCHES)
METHODS = {kind.__name__.lower(): kind for kind in KINDS}
ALLOCATION_NAMES = {kind.__name__.lower(): kind for kind in ALLOCATIONS}
WORDS: dict[str, type[Pattern]] = {
    "unstructured": Unstructured,
    "filter": Filter,
    "channel": Channel,
    "kernel": KernelSlice,
    "one-per-kernel": OnePerKernel,
    "kernel-pattern": KernelPattern,
    "strided-kernel": StridedKernel,
}
"""Patterns that have a word, and no numbers that have to be given."""

FORMS: tuple[tuple[str, Callable[..., Pattern]], ...] = (
    (r"(\d+):(\d+)", NM),
    (r"(\d+):(\d+)t", TransposableNM),
    (r"(\d+):(\d+):(\d+)", VNM),
    (r"(\d+)x(\d+)", Block),
    (r"head:(\d+)", Head),
    (r"head-in:(\d+)", partial(Head, axis=1)),
    (r"kernel-pattern:(\d+):(\d+)", KernelPattern),
    (r"strided-kernel:(\d+)", StridedKernel),
)
"""How patterns with numbers are written, and what takes the numbers."""

OVER_CHANNELS: dict[str, Callable[[Pattern], Pattern]] = {"per-tap": PerTap, "all-taps": AllTaps}
"""Words that another pattern follows, after a colon."""

PATTERN_HELP = """Patterns: unstructured; 2:4 keeps 2 of every 4 inputs, 2:4t of every 4 outputs too; 64:2:8 keeps 4 of
every 8 inputs for 64 outputs at a time, and 2 of these 4 for each; 16x16 removes blocks of 16 outputs by 16 inputs;
filter removes outputs, channel inputs; head:64 removes heads of 64 outputs, head-in:64 of 64 inputs. Of convolutions
only: kernel removes whole kernels; one-per-kernel keeps one weight of each; kernel-pattern:4:8 keeps 4 in one of 8
shapes; strided-kernel:2 keeps every second weight, from an offset per input channel; per-tap:2:4 and per-tap:16x16 see
the input channels of each position in the kernel by themselves; all-taps:2:4 and all-taps:16x16 choose channels once
for all positions. These two take any pattern of a matrix."""


class PartName(click.ParamType):  # type: ignore[type-arg]
    """A method or an allocation by its name in any case, with its default settings.

    Args:
        word: what it is called in messages.
        parts: the classes by their names in lower case.
    """

    def __init__(self, word: str, parts: Mapping[str, Callable[[], Any]]) -> None:
        self.name = word
        self.parts = parts

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the part called ``value``."""
        name = re.sub("[-_ ]", "", str(value)).lower()
        if name not in self.parts:
            close = difflib.get_close_matches(name, self.parts, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            self.fail(f"expected one that `sparsekit methods` lists, got {value!r}{hint}", param, ctx)
        try:
            return self.parts[name]()
        except SparsekitError as error:
            self.fail(str(error), param, ctx)


class PatternName(click.ParamType):  # type: ignore[type-arg]
    """A pattern as :data:`PATTERN_HELP` explains it."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the pattern that ``value`` describes."""
        try:
            pattern = read_pattern(str(value).lower())
        except SparsekitError as error:
            self.fail(str(error), param, ctx)
        if pattern is None:
            known = ", ".join(WORDS)
            self.fail(f"expected {known}, or numbers as in 2:4 and 16x16 (see --help), got {value!r}", param, ctx)
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
    if text in WORDS:
        return WORDS[text]()
    for form, make in FORMS:
        if found := re.fullmatch(form, text):
            return make(*map(int, found.groups()))
    word, _, rest = text.partition(":")
    inner = read_pattern(rest) if word in OVER_CHANNELS else None
    return None if inner is None else OVER_CHANNELS[word](inner)
