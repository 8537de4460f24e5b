"""Measurements kept on disk, so that a layer is measured once per machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from pathlib import Path

from sparsekit.errors import SparsekitWarning
from sparsekit.planning.machine import fingerprint

VERSION = 1
VARIABLE = "SPARSEKIT_CACHE"

Times = dict[str, float]
"""Seconds per call by kernel name."""


def folder() -> Path | None:
    """Where measurements are kept: ``SPARSEKIT_CACHE``, or else the user's cache folder.

    None where it is "off", or where the user has no home.
    """
    asked = os.environ.get(VARIABLE)
    if asked == "off":
        return None
    if asked:
        return Path(asked)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsekit"
    except RuntimeError:
        return None


class Cache:
    """Times by layer key, for this machine, build and versions.

    A file that cannot be read is ignored with a warning, and so is a folder that cannot be written: the work goes on.
    """

    def __init__(self) -> None:
        place, belongs_to = folder(), fingerprint()
        digest = hashlib.sha256(json.dumps(belongs_to, sort_keys=True).encode()).hexdigest()[:16]
        self._path = place / f"times-{digest}.json" if place else None
        self._belongs_to = belongs_to
        self._times = self._read()
        self._new: dict[str, Times] = {}

    def get(self, key: str) -> Times | None:
        """Return the times under ``key``, or None."""
        return self._times.get(key)

    def put(self, key: str, times: Times) -> None:
        """Remember ``times``; :meth:`save` writes them."""
        self._times[key] = self._new[key] = times

    def save(self) -> None:
        """Write what is new, together with what another process may have written meanwhile, in one atomic step."""
        if self._path is None or not self._new:
            return
        text = json.dumps({"version": VERSION, "machine": self._belongs_to, "times": {**self._read(), **self._new}})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            warnings.warn(
                f"measurements are not kept: {self._path.parent} cannot be written ({error}); "
                f"set {VARIABLE} to a folder that can, or to 'off'",
                SparsekitWarning,
                stacklevel=2,
            )
        self._new = {}

    def _read(self) -> dict[str, Times]:
        if self._path is None:
            return {}
        try:
            return _parse(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            warnings.warn(f"ignoring the measurements in {self._path}: {error}", SparsekitWarning, stacklevel=2)
            return {}


def _parse(text: str) -> dict[str, Times]:
    """Return the times that ``text`` holds; raise ValueError unless it is exactly what :meth:`Cache.save` writes."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("version") != VERSION or not isinstance(content.get("times"), dict):
        raise ValueError(f"expected measurements of version {VERSION}")
    times: dict[str, Times] = {}
    for key, found in content["times"].items():
        if not isinstance(found, dict) or not all(isinstance(t, float) and 0 < t < math.inf for t in found.values()):
            raise ValueError(f"expected seconds by kernel name under {key!r}")
        times[key] = found
    return times
