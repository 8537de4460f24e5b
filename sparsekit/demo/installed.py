"""Packages that only the demo needs."""

from __future__ import annotations

import importlib.util

from sparsekit.errors import InputError


def expect_transformers(what: str) -> None:
    """Raise :class:`InputError` where transformers, which ``what`` needs, is missing; else let it tell errors only."""
    expect_installed("transformers", what)
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def expect_installed(package: str, what: str) -> None:
    """Raise :class:`InputError` where the module ``package`` is missing, which ``what`` needs."""
    if importlib.util.find_spec(package) is None:
        name = {"sklearn": "scikit-learn"}.get(package, package)
        raise InputError(f"{what} needs {name}: pip install 'sparsekit[demo]'")
