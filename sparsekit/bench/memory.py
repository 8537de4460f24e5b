"""How the process gets its memory while it measures."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

WARM_CALLS = 3
"""Calls of a way before it is timed warm: the C library hands out freed pieces of one size in turns, and only after as
many was all that a result can lie in written by the same way."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALL = 1 << 30
_LEAST_CACHE = 32 << 20


def keep_memory() -> None:
    """Let the C library keep what is freed, instead of handing large pieces back to the system.

    Otherwise a result of several megabytes is faulted in page by page in some calls and not in others, depending on
    what was freed before, which can cost more than a whole convolution. It is for the process as a whole, dense ways
    included. Where there is no glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(threshold, _ALL)


def warming(call: Callable[[], object]) -> None:
    """Bring the caches to where repeated calls of ``call`` find them."""
    for _ in range(WARM_CALLS):
        call()


@cache
def cache_bytes() -> int:
    """The size of the largest cache of the first core, in bytes, at least 32 MB."""
    sizes = [_LEAST_CACHE]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)
