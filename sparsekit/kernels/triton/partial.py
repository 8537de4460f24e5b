"""Partial results, which several programs leave behind where one would take too long."""

from __future__ import annotations

from torch import Tensor

from sparsekit.kernels.triton.launch import Launch

ELEMENTS = 256
"""Results of one block of threads; each thread reads 16 bytes at once."""


def sum_of(parts: Tensor, bias: Tensor | None, y: Tensor, activation: str = "none") -> Launch:
    """Return what adds up ``parts``, float32 ``(parts, *y.shape)``, always in the same order, and ``bias`` to each row.

    Cost: 4 bytes per part and result.
    """
    grid = (-(-y.numel() // ELEMENTS),)
    constants = {"PARTS": parts.shape[0], "ELEMENTS": ELEMENTS, "ACTIVATION": activation, "num_warps": ELEMENTS // 128}
    return Launch("partial.add", grid, (parts, bias, y, y.numel(), y.shape[-1]), constants)
