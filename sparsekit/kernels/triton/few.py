"""Few tokens: what the kernels share that multiply where memory, not arithmetic, is the limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sparsekit.formats.base import Refusal
from sparsekit.kernels.gpu import Gpu
from sparsekit.kernels.triton.launch import Launch
from sparsekit.kernels.triton.partial import sum_of
from sparsekit.kernels.triton.tiled import Operands

CHUNK = 8
"""Values that a lane reads at once: 16 bytes of halves."""

MOST_SPLITS = 32


def shared(operands: Operands, splits: int, launch: Callable[[Operands], Launch]) -> list[Launch]:
    """Return what computes a product in ``splits`` parts, which are added up in order: twice the same bits.

    Args:
        operands: of the whole product.
        splits: blocks in the third direction of the launch's grid.
        launch: given operands, returns the launch whose ``i``-th block in the third direction writes its sums to
            ``y[i]``.
    """
    if splits == 1:
        return [launch(operands)]
    batch, rows = operands.y.shape
    parts = torch.empty((splits, batch, rows), dtype=torch.float32, device=operands.y.device)
    return [
        launch(replace(operands, bias=None, y=parts, activation="none")),
        sum_of(parts, operands.bias, operands.y, operands.activation),
    ]


def splits_for(gpu: Gpu, blocks: int, warps: int, steps: int) -> int:
    """Return in how many parts ``blocks`` of ``warps`` warps that take ``steps`` steps each are worth being cut.

    Enough for 32 warps on every multiprocessor, a power of two, and at least two steps a part.
    """
    wanted = min(32 * gpu.multiprocessors // max(blocks * warps, 1), steps // 2, MOST_SPLITS)
    return 1 << max(wanted.bit_length() - 1, 0)


def refuses_batch(batch: int, most: int) -> Refusal | None:
    """Return why a kernel that expands an unstructured weight does not run more than ``most`` tokens, or None."""
    if batch <= most:
        return None
    return Refusal(
        f"it runs batches up to {most}, not {batch}: at larger ones the dense product is faster than any kernel that "
        "expands unstructured weights"
    )
