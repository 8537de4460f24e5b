"""The strategies of TensorFlow Model Optimization."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekit.errors import PatternError, PruningError
from sparsekit.mask import Mask
from sparsekit.patterns import NM
from sparsekit.patterns.base import keep_highest
from sparsekit.pruning.frameworks.writing import earlier, zeroed
from sparsekit.pruning.statistics import Target
from sparsekit.pruning.targets import Choice, find_targets

POOLINGS = ("AVG", "MAX")


def tfmot_prune(  # noqa: PLR0913 - the settings of prune_low_magnitude together
    model: nn.Module,
    sparsity: float | None = None,
    *,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    masks: Mapping[str, Mask] | None = None,
    layers: Choice = None,
) -> dict[str, Mask]:
    """Prune weights in place as one mask update of TFMOT's ``prune_low_magnitude`` does; masks by parameter name.

    Layer by layer, ``k = max(round(n * (1 - sparsity)), 1)`` units stay (half to even, in float32), and with them all
    that are as large as the k-th: ties stay. The schedule, ``ConstantSparsity`` or ``PolynomialDecay``, is the number
    that is passed as ``sparsity``.

    Args:
        model: any module.
        sparsity: fraction of zeros, in [0, 1]; not read with ``sparsity_m_by_n``.
        block_size: ``(inputs, outputs)`` that share one fate, in the order of a Keras kernel; Linear layers only.
            Magnitudes are pooled with TensorFlow's padding "SAME", which centres the windows on the kernel, while the
            mask's blocks start at its corner: where a side does not divide, the two are shifted, as in TFMOT.
        block_pooling_type: ``AVG`` or ``MAX``.
        sparsity_m_by_n: ``(zeros, group)`` along the input channels, where ``NM(n, m)`` counts what stays. The last
            group is filled up with zeros.
        masks: what an earlier call returned. Masks of ``sparsity_m_by_n`` are set once: later calls keep them. All
            others are made anew from the weights as they are.
        layers: as for :func:`sparsekit.prune`.

    Raises:
        PatternError: the sparsity, the block or the group is impossible.
        PruningError: the pooling is unknown, or a convolution meets a block.
        LayerError: as :func:`sparsekit.prune`.

    Source: TensorFlow Model Optimization, ``sparsity/keras/pruning_impl.py`` and ``pruning_utils.py``.
    """
    targets = find_targets(model, layers)
    if sparsity_m_by_n is not None:
        zeros, group = sparsity_m_by_n
        if not 0 < zeros < group:
            raise PatternError(f"sparsity_m_by_n: expected 0 < zeros < group, got {zeros} zeros of {group}")
        if masks is not None:
            return zeroed(
                {t.name: (t.weight, earlier(masks, t.name, t.weight)) for t in targets}, NM(group - zeros, group)
            )
        return zeroed({t.name: (t.weight, _by_group(t, zeros, group)) for t in targets}, NM(group - zeros, group))
    if sparsity is None or not 0 <= sparsity <= 1:
        raise PatternError(f"sparsity: expected a fraction of zeros in [0, 1], got {sparsity!r}")
    if block_pooling_type not in POOLINGS:
        raise PruningError(f"block_pooling_type: expected AVG or MAX, got {block_pooling_type!r}")
    if tuple(block_size) == (1, 1):
        return zeroed({t.name: (t.weight, _largest(t.weight.detach().abs(), sparsity)) for t in targets})
    if min(block_size) < 1:
        raise PatternError(f"block_size: expected sides of at least 1, got {block_size[0]} x {block_size[1]}")
    for target in targets:
        if target.weight.dim() != 2:
            raise PruningError(f"{target.name}: expected a Linear for blocks, got shape {tuple(target.weight.shape)}")
    return zeroed({t.name: (t.weight, _by_block(t, sparsity, block_size, block_pooling_type)) for t in targets})


def _largest(size: Tensor, sparsity: float) -> Tensor:
    """Keep what is as large as the k-th largest."""
    if not size.numel():
        return torch.ones_like(size, dtype=torch.bool)
    wanted = size.numel() * (1 - torch.tensor(sparsity, dtype=torch.float32))
    count = max(int(wanted.round()), 1)
    threshold = size.reshape(-1).kthvalue(size.numel() - count + 1).values
    return size >= threshold


def _by_block(target: Target, sparsity: float, block: tuple[int, int], pooling: str) -> Tensor:
    """Choose blocks of the transposed weight, which is how Keras stores it."""
    kernel = target.weight.detach().abs().T.float()
    pooled = kernel
    for axis, side in enumerate(block):
        pooled = _pooled(pooled.movedim(axis, 1), side, pooling).movedim(1, axis)
    keep = _largest(pooled, sparsity)
    for axis, side in enumerate(block):
        keep = keep.repeat_interleave(side, dim=axis)
    return keep[: kernel.shape[0], : kernel.shape[1]].T.contiguous()


def _pooled(rows: Tensor, side: int, pooling: str) -> Tensor:
    """Pool the columns of ``rows`` in windows of ``side``, padded on both sides; padding counts for nothing."""
    missing = -rows.shape[1] % side
    padding = (missing // 2, missing - missing // 2)
    windows = F.pad(rows, padding).unfold(1, side, side)
    if pooling == "MAX":
        return windows.amax(dim=2)
    members = F.pad(torch.ones_like(rows), padding).unfold(1, side, side).sum(dim=2)
    return windows.sum(dim=2) / members


def _by_group(target: Target, zeros: int, group: int) -> Tensor:
    """Keep the largest of every ``group`` consecutive input channels, whichever place of the kernel they are at."""
    size = target.weight.detach().abs().movedim(1, -1)
    flat = size.reshape(-1, size.shape[-1])
    padded = F.pad(flat, (0, -flat.shape[1] % group))
    keep = keep_highest(padded.reshape(-1, group), group - zeros).reshape(padded.shape)[:, : flat.shape[1]]
    return keep.reshape(size.shape).movedim(-1, 1).contiguous()
