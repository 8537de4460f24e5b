"""Text that every Python installation has: the docstrings of its standard library."""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsekit.errors import InputError

# Folders of the standard library that are not of it, or hold no prose.
LEFT_OUT = frozenset({"site-packages", "test", "tests", "_vendor", "_bundled", "__pycache__", "idlelib", "lib2to3"})
SENTENCE_END = re.compile(r"(?<=[.!?:])\s")
SHORTEST = 5
"""Words in the shortest text, and in the shortest rest of a pair, that are used."""
HELD_OUT_SHARE = 4
"""One text in so many is held out."""


@dataclass(frozen=True)
class Pair:
    """One held-out docstring, cut after its first sentence: a search for ``query`` should find ``document``."""

    query: str
    document: str

    @property
    def text(self) -> str:
        """The whole docstring."""
        return f"{self.query} {self.document}"


@dataclass(frozen=True)
class Corpus:
    """Texts to learn from and pairs to judge by; no first sentence is in both."""

    calibration: tuple[str, ...]
    held_out: tuple[Pair, ...]


def load_corpus(folder: Path | None = None) -> Corpus:
    """Read the docstrings below ``folder`` (default: the standard library) and split them.

    Texts are put in the order of a hash, so that any first part of them is a fair sample; the same hash, of the first
    sentence, decides which are held out. The same Python version gives the same corpus on every machine.

    Raises:
        InputError: the folder holds too little text to split.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    texts = {text for text in docstrings(root) if len(text.split()) >= SHORTEST}
    calibration: list[str] = []
    pairs: dict[str, Pair] = {}
    for text in sorted(texts, key=_hash):
        pair = split(text)
        if _hash(pair.query) % HELD_OUT_SHARE:
            calibration.append(text)
        elif len(pair.document.split()) >= SHORTEST:
            pairs.setdefault(pair.query, pair)
    if not calibration or not pairs:
        raise InputError(f"{root}: expected Python files with docstrings, got {len(texts)} usable texts")
    return Corpus(tuple(calibration), tuple(pairs.values()))


def docstrings(root: Path) -> Iterator[str]:
    """Yield every docstring of every Python file below ``root``, on one line each."""
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            yield from _docstrings_of(path)


def split(text: str) -> Pair:
    """Cut ``text`` after its first sentence; the document is empty where there is no more."""
    query, *rest = SENTENCE_END.split(text, maxsplit=1)
    return Pair(query, rest[0] if rest else "")


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield " ".join(text.split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
