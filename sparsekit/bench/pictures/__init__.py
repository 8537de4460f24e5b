"""The pictures of ``sparsekit bench linear``, drawn from what it has saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsekit.bench.pictures.crossover import draw_crossover
from sparsekit.bench.pictures.growth import draw_growth
from sparsekit.bench.pictures.roofline import draw_roofline
from sparsekit.bench.pictures.selection import Measured

__all__ = ["draw_linear"]

PICTURES = {"crossover": draw_crossover, "roofline": draw_roofline, "growth": draw_growth}


def draw_linear(content: Mapping[str, Any], path: Path) -> list[Path]:
    """Write ``<path>-<picture>.png`` for every picture; nothing where matplotlib is not installed or nothing is sparse.

    Args:
        content: what :meth:`~sparsekit.bench.results.Results.as_json` gives, or what was read back.
        path: without suffix.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        return []
    measured = Measured.of(content)
    if not measured.kinds():
        return []
    made = []
    for name, draw in PICTURES.items():
        made.append(path.with_name(f"{path.name}-{name}.png"))
        draw(measured, made[-1])
    return made
