"""What a run on a GPU has found, line by line on disk: it outlives the process, which a bad kernel can take along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A file of JSON objects, one per line.

    Kinds: ``start`` (of a part of a unit), ``done`` (a unit), ``skipped`` (a unit), ``row``, ``tuned``, ``ceiling``,
    ``absent`` (a way that is not there for a case), ``wrong`` (a kernel that raises, or is wrong, in a case), and
    ``failed`` (a way that is left out from there on).

    Args:
        path: the file.
    """

    path: Path

    def add(self, kind: str, **fields: Any) -> None:
        """Write one record; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def records(self, *kinds: str) -> list[Record]:
        """Return the records of these kinds, all where none is named, in the order in which they were written."""
        return [record for record in self._lines() if not kinds or record["kind"] in kinds]

    def failed(self) -> dict[str, str]:
        """Return the reason by name of the ways that are left out."""
        return {record["way"]: record["reason"] for record in self.records("failed")}

    def _lines(self) -> Iterator[Record]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the process ended while it wrote
                continue
