"""What happened in a run, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.errors import CheckpointError

Series = dict[str, float]


@dataclass
class History:
    """Rows of numbers: sparsity per layer, and what a method adds, such as factors and drop fractions.

    Args:
        method: how the run's method prints.
        rows: JSON types, ``{"step": 10, "sparsity": {"fc.weight": 0.5}, "drop_fraction": {"all": 0.3}}``; each value
            but the step is a series by layer, or ``{"all": number}``.
    """

    method: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, series: Mapping[str, Series]) -> None:
        """Add what holds after ``step`` finished steps; a row of the same step is replaced."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows.pop()
        self.rows.append({"step": step, **{name: dict(values) for name, values in series.items()}})

    def series(self, name: str, layer: str = "all") -> list[tuple[int, float]]:
        """Return ``(step, value)`` of one series, where it has a value."""
        return [(row["step"], row[name][layer]) for row in self.rows if layer in row.get(name, {})]

    def save(self, path: str | Path) -> None:
        """Write JSON that ``sparsekit report`` draws."""
        Path(path).write_text(json.dumps({"method": self.method, "rows": self.rows}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is no such file.
        """
        try:
            found = json.loads(Path(path).read_text())
            return cls(str(found["method"]), _checked(found["rows"]))
        except KeyError as error:
            raise CheckpointError(f"{path}: expected the history of a run, as JSON, got one without {error}") from error
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: expected the history of a run, as JSON, got {error}") from error

    def __len__(self) -> int:
        return len(self.rows)


def _checked(rows: object) -> list[dict[str, Any]]:
    """Return ``rows``, or raise ``TypeError`` or ``KeyError`` where they are not those of a history."""
    if not isinstance(rows, list) or not rows:
        raise TypeError("no rows")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise TypeError(f"row {index}, which is {row!r}")
        if missing := {"step", "sparsity"} - set(row):
            raise TypeError(f"row {index} without {' and '.join(sorted(missing))}")
        for name, values in row.items():
            numbers = [values] if name == "step" else values.values() if isinstance(values, dict) else [None]
            if not all(isinstance(number, (int, float)) for number in numbers):
                raise TypeError(f"row {index} with {name} {values!r}")
    return rows
