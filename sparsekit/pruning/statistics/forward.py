"""Run a model forwards, and say which batch it refuses."""

from __future__ import annotations

from typing import Any

from sparsekit.batches import describe
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics.base import ModelView


def attempt(view: ModelView, index: int) -> Any:
    """Run batch ``index`` and return what the model, or the loss function, returns.

    Raises:
        CalibrationError: it fails.
    """
    batch = view.batches[index]
    try:
        return view.run(batch)
    except Exception as error:
        raise CalibrationError(
            f"batches[{index}]: expected what the model takes (a tensor, a tuple of positional or a dict of keyword "
            f"arguments), got {describe(batch)}, and the model raised {type(error).__name__}: {error}"
        ) from error
