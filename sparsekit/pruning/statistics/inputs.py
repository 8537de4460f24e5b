"""What calibration collects from the inputs of a layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekit.pruning.statistics.base import Layer, Statistic, Target

UNFOLDED_NUMBERS = 1 << 25
"""Patches of a convolution are unfolded for as many images at a time as stay below this many numbers."""


class InputStatistic(Statistic):
    """Something summed over every input row that a layer sees.

    An input row is what one output value is computed from: ``columns`` numbers, the columns of the weight's matrix
    view. A grouped convolution has as many kinds of row as it has groups; every other layer has one.

    Args:
        groups: kinds of input row.
        columns: numbers per input row.
        like: a tensor whose device and dtype the statistic is kept in.
    """

    sees_sums: ClassVar[bool] = False
    """Whether it looks at what the layer's output is added to."""

    def __init__(self, groups: int, columns: int, like: Tensor) -> None:
        self.rows = 0
        self.sum = self.start(groups, columns, like)

    @abstractmethod
    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return the zeros to sum into."""

    @abstractmethod
    def accumulate(self, rows: Tensor) -> None:
        """Add ``rows`` ``(groups, tokens, columns)``, of any float dtype, to :attr:`sum` in place."""

    def add(self, rows: Tensor) -> None:
        """Count and accumulate ``rows`` ``(groups, tokens, columns)`` of any float dtype."""
        self.rows += rows.shape[1]
        self.accumulate(rows)


class InputNorm(InputStatistic):
    """The sum of squares of each input column, ``(groups, columns)``, in float64."""

    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return float64 zeros: small, so exactness is free."""
        return torch.zeros(groups, columns, device=like.device, dtype=torch.float64)

    def accumulate(self, rows: Tensor) -> None:
        """Add the squares of ``rows``."""
        self.sum += torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()

    def norm(self, outputs: int) -> Tensor:
        """``||x_j||_2`` as each of ``outputs`` weight rows sees it, ``(outputs, columns)``."""
        return self.sum.sqrt().repeat_interleave(outputs // self.sum.shape[0], dim=0)


class InputMean(InputStatistic):
    """The sum of each input column, ``(groups, columns)``, in float64."""

    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return float64 zeros: small, so exactness is free."""
        return torch.zeros(groups, columns, device=like.device, dtype=torch.float64)

    def accumulate(self, rows: Tensor) -> None:
        """Add ``rows``."""
        self.sum += rows.sum(dim=1, dtype=torch.float64)

    def mean(self, outputs: int) -> Tensor:
        """The mean of ``x_j`` over input rows as each of ``outputs`` weight rows sees it, ``(outputs, columns)``."""
        return (self.sum / self.rows).repeat_interleave(outputs // self.sum.shape[0], dim=0)


class PairedStatistic(InputStatistic):
    """Summed over pairs: an input row of the pruned model, and that of the dense one for the same token."""

    @abstractmethod
    def accumulate_pair(self, rows: Tensor, dense: Tensor) -> None:
        """Add pairs of ``rows`` and ``dense``, both ``(groups, tokens, columns)``, to :attr:`sum` in place."""

    def accumulate(self, rows: Tensor) -> None:
        """Add ``rows`` paired with themselves: those of a model that nothing has been pruned in."""
        self.accumulate_pair(rows, rows)

    def add_pair(self, rows: Tensor, dense: Tensor) -> None:
        """Count and accumulate pairs of rows of any float dtype."""
        self.rows += rows.shape[1]
        self.accumulate_pair(rows, dense)


class Gram(InputStatistic):
    """The sum of ``x x^T`` over input rows, ``(groups, columns, columns)``."""

    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return zeros of the dtype of ``like``."""
        return torch.zeros(groups, columns, columns, device=like.device, dtype=like.dtype)

    def accumulate(self, rows: Tensor) -> None:
        """Add the outer products of ``rows``."""
        rows = rows.to(self.sum.dtype)
        self.sum.baddbmm_(rows.transpose(1, 2), rows)

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Return the bytes of ``(groups, columns, columns)``."""
        return _square(target)


class CrossGram(PairedStatistic):
    """The sum of ``x d^T`` over pairs of a pruned model's row ``x`` and the dense model's ``d``.

    Shape ``(groups, columns, columns)``; with it, and the dense weight ``W``, ``X Y^T = CrossGram W^T`` for the outputs
    ``Y`` of the dense layer in the dense model.
    """

    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return zeros of the dtype of ``like``."""
        return torch.zeros(groups, columns, columns, device=like.device, dtype=like.dtype)

    def accumulate_pair(self, rows: Tensor, dense: Tensor) -> None:
        """Add the outer products of ``rows`` and ``dense``."""
        self.sum.baddbmm_(rows.to(self.sum.dtype).transpose(1, 2), dense.to(self.sum.dtype))

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Return the bytes of ``(groups, columns, columns)``."""
        return _square(target)


class ResidualGap(InputStatistic):
    """The sum of ``x (d - r)^T`` over input rows ``x``, ``(1, columns, outputs)``; no outputs where nothing is added.

    ``r`` is what a Linear's output is added to, as at the end of a residual branch, and ``d`` the same in the dense
    model: with targets that hold the gap too, the layer makes up for what the sum lacks. A Conv2d has no gap.
    """

    sees_sums: ClassVar[bool] = True

    def start(self, groups: int, columns: int, like: Tensor) -> Tensor:
        """Return nothing yet: the outputs are not known."""
        return torch.zeros(groups, columns, 0, device=like.device, dtype=like.dtype)

    def accumulate(self, rows: Tensor) -> None:
        """Do nothing: there is no gap in rows alone."""

    def add_gap(self, rows: Tensor, gap: Tensor) -> None:
        """Add the products of ``rows`` ``(1, tokens, columns)`` and ``gap`` ``(1, tokens, outputs)``."""
        if not self.sum.shape[2]:
            self.sum = self.sum.new_zeros(*self.sum.shape[:2], gap.shape[2])
        self.sum.baddbmm_(rows.to(self.sum.dtype).transpose(1, 2), gap.to(self.sum.dtype))

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Return the bytes of ``(1, columns, outputs)``."""
        return target.weight.numel() * torch.promote_types(target.weight.dtype, torch.float32).itemsize


def _square(target: Target) -> int:
    """Bytes of one matrix of input columns per group."""
    itemsize = torch.promote_types(target.weight.dtype, torch.float32).itemsize
    return groups_of(target.layers[0]) * target.weight[:1].numel() ** 2 * itemsize


def groups_of(layer: Layer) -> int:
    """Kinds of input row of ``layer``."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def rows_in(layer: Layer, inputs: Tensor) -> int:
    """Count the input rows of ``layer``: tokens of a Linear, output pixels of a Conv2d; ``inputs`` as below."""
    if isinstance(layer, nn.Linear):
        return inputs.shape[:-1].numel()
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    rows = 1 if inputs.dim() == 3 else inputs.shape[0]
    for axis, size in enumerate((inputs.shape[-2] + top + bottom, inputs.shape[-1] + left + right)):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        rows *= (size - reach) // layer.stride[axis] + 1
    return rows


def input_rows(layer: Layer, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the input rows of ``layer``, ``(groups, tokens, columns)``, in parts that fit into memory.

    Args:
        layer: a Linear gives its flattened inputs; a Conv2d the patches under its kernel, channels first as in its
            weight, with its stride, dilation, padding of any mode and groups.
        inputs: ``(..., in)`` of a Linear, ``(batch, in, height, width)`` or ``(in, height, width)`` of a Conv2d.
    """
    if isinstance(layer, nn.Linear):
        yield inputs.reshape(1, -1, layer.in_features)
        return
    images = inputs if inputs.dim() == 4 else inputs.unsqueeze(0)
    taps = math.prod(layer.kernel_size)
    columns = layer.in_channels // layer.groups * taps
    for part in torch.split(images, max(1, UNFOLDED_NUMBERS // max(1, images[:1].numel() * taps))):
        patches = F.unfold(_padded(layer, part), layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        grouped = patches.reshape(len(part), layer.groups, columns, patches.shape[2])
        yield grouped.permute(1, 0, 3, 2).flatten(1, 2)


def _padded(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """``images`` with the border that ``layer`` adds, strings such as "same" resolved by the layer itself."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
