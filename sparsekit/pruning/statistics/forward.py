"""Run a model forwards, and say which batch it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsekit.batches import describe
from sparsekit.errors import CalibrationError


def attempt(run: Callable[[Any], Any], index: int, batch: Any) -> Any:
    """Return ``run(batch)``, where ``run`` calls the model with what comes as number ``index``.

    Raises:
        CalibrationError: it fails.
    """
    try:
        return run(batch)
    except CalibrationError:  # says itself what is wrong
        raise
    except Exception as error:
        raise CalibrationError(
            f"batches[{index}]: expected what the model takes (a tensor, a tuple of positional or a dict of keyword "
            f"arguments), got {describe(batch)}, and the model raised {type(error).__name__}: {error}"
        ) from error
