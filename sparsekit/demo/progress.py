"""How far each recipe is, shown while it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

Tell = Callable[[float], None]
"""Is told the progress, in (0, 1]."""


def bars(console: Console) -> Progress:
    """Return a display of one bar per task."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def teller(progress: Progress, name: str) -> Tell:
    """Add the task ``name``; what is returned moves its bar."""
    return partial(_show, progress, progress.add_task(name, total=1.0))


def _show(progress: Progress, task: TaskID, share: float) -> None:
    progress.update(task, completed=share)
