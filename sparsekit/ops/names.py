"""Kernel names by input size, as one string that an operator takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

REMEMBERED = 1024
"""Input sizes for which a packed weight remembers its kernel."""


def kernel_names(by_size: Mapping[Any, str]) -> str:
    """Write a kernel name by batch, or by ``(N, H, W)``, as ``"1=csr_mv_native"`` or ``"1x56x56=csr_conv_native"``."""
    sizes = (("x".join(map(str, size)) if isinstance(size, tuple) else size, name) for size, name in by_size.items())
    return " ".join(f"{size}={name}" for size, name in sizes)


@lru_cache(maxsize=1024)
def names_by_size(kernels: str) -> dict[Any, str]:
    """Return what :func:`kernel_names` wrote."""
    pairs = (item.split("=", 1) for item in kernels.split())
    return {tuple(map(int, size.split("x"))) if "x" in size else int(size): name for size, name in pairs}
