"""The gradient of every sample's own loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.batches import tensors_in
from sparsekit.pruning.statistics.backward import differentiable, gradients, loss_of
from sparsekit.pruning.statistics.base import Layer, ModelStatistic, ModelView, Target
from sparsekit.pruning.statistics.inputs import input_rows

MOST = 1024
"""Gradients that are kept of a layer; with more samples, neighbours share one."""
ROOM = 2 << 30
"""Bytes of gradients that are kept of a layer, unless :data:`LEAST` take more."""
LEAST = 16


@dataclass(frozen=True, eq=False)
class SampleGradients(ModelStatistic):
    """The gradients of the samples' losses, ``(n, *weight.shape)``, in eval mode.

    Their sum over a batch is the gradient of the batch's loss, the mean over its samples, times its size: exact as long
    as samples do not look at each other, as in eval mode. They are taken from one backward pass per batch where each
    use of a layer sees the samples along the first dimension of its input, and else from one pass per sample. Where a
    batch cannot be cut into samples, because its tensors differ in their first dimension, it counts as one.

    Beyond 1024 samples, or 2 GiB per layer, ``c`` neighbouring samples share a row: the sum of their gradients divided
    by ``sqrt(c)``, which leaves the second moment of gradients with mean zero as it is.

    Args:
        samples: ``(n, *weight.shape)``, float32, or float64 for a weight of that dtype.
        counts: ``(n,)``, how many samples share a row.

    Source: Singh, Alistarh 2020, "WoodFisher", section 3, takes mini-batch gradients as samples.
    """

    samples: Tensor
    counts: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of the gradient over all samples, ``weight.shape``."""
        weights = self.counts.to(self.samples).sqrt() / self.counts.sum()
        return (weights @ self.samples.flatten(1)).reshape(self.samples.shape[1:])

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Bytes of the gradients of ``target``."""
        total = sum(_size(batch) for batch in batches)
        return _rows(target, total) * target.weight.numel() * _dtype(target.weight).itemsize

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch, or where that does not do each sample, once; see :meth:`ModelStatistic.collect`."""
        sizes = [_size(batch) for batch in view.batches]
        sums = {target: _Sums.empty(target, sum(sizes)) for target in view.targets}
        apart: set[Target] = set()
        with differentiable(view) as weights:
            first = 0
            for index, size in enumerate(sizes):
                together = [target for target in view.targets if target not in apart] if size > 1 else []
                with _watching(together, size) as recorders:
                    found = gradients(view, loss_of(view, index), weights)
                for target, gradient in zip(view.targets, found):
                    if size == 1:
                        sums[target].add(first, gradient[None])
                    elif target in recorders and recorders[target].agrees(gradient):
                        sums[target].add(first, recorders[target].rows)
                    else:
                        apart.add(target)
                first += size
        if apart:
            part = replace(view, targets=[target for target in view.targets if target in apart])
            sums.update(_one_by_one(part, sizes))
        return {target.name: cls(*sums[target].result()) for target in view.targets}


@dataclass(frozen=True)
class _Sums:
    """Rows that gradients are added to: sample ``i`` of ``total`` goes to row ``i * rows // total``."""

    rows: Tensor
    counts: Tensor
    total: int

    @classmethod
    def empty(cls, target: Target, total: int) -> _Sums:
        count, weight = _rows(target, total), target.weight
        rows = torch.zeros(count, *weight.shape, dtype=_dtype(weight), device=weight.device)
        return cls(rows, torch.zeros(count, dtype=torch.long), total)

    def add(self, first: int, gradients: Tensor) -> None:
        """Add the gradients of the samples from number ``first`` on."""
        for i, gradient in enumerate(gradients):
            self.add_sum(first + i, gradient, 1)

    def add_sum(self, sample: int, gradient: Tensor, count: int) -> None:
        """Add the sum of the gradients of ``count`` samples to the row of ``sample``."""
        row = sample * len(self.rows) // self.total
        self.rows[row] += gradient
        self.counts[row] += count

    def result(self) -> tuple[Tensor, Tensor]:
        """The rows divided by the root of their counts, and the counts."""
        used = self.counts > 0
        shared = self.counts.clamp(min=1).sqrt().to(self.rows)
        self.rows.div_(shared.reshape(-1, *[1] * (self.rows.dim() - 1)))
        return (self.rows, self.counts) if bool(used.all()) else (self.rows[used], self.counts[used])


def _one_by_one(view: ModelView, sizes: Sequence[int]) -> dict[Target, _Sums]:
    """Run the model on each sample alone; a batch that cannot be cut gives the sum over its samples."""
    sums = {target: _Sums.empty(target, sum(sizes)) for target in view.targets}
    first = 0
    with differentiable(view) as weights:
        for index, size in enumerate(sizes):
            batch = view.batches[index]
            parts = [_cut(batch, i) for i in range(size)] if _cuttable(batch) else [batch]
            for i, part in enumerate(parts):
                alone = replace(view, batches=[*view.batches[:index], part])  # so that an error names the batch
                found = gradients(view, loss_of(alone, index), weights)
                for target, gradient in zip(view.targets, found):
                    count = size // len(parts)
                    sums[target].add_sum(first + i, gradient * count, count)
            first += size
    return sums


class _Recorder:
    """The gradients of one batch's samples for one weight, over all uses of it."""

    def __init__(self, target: Target, size: int) -> None:
        self.size = size
        self.weight = target.weight
        self.rows = torch.zeros(size, *target.weight.shape, dtype=_dtype(target.weight), device=target.weight.device)
        self.complete = True

    def see(self, layer: Layer, inputs: Tensor, output: Tensor) -> Tensor:
        """Have the gradients added when the gradient of ``output`` is known; return what takes its place."""
        images = isinstance(layer, nn.Conv2d)
        if inputs.dim() < 2 or len(inputs) != self.size or (images and inputs.dim() != 4):
            self.complete = False
        elif output.requires_grad:
            # a function in place may follow: a tensor that is no view keeps the hook for the value before it
            output, given = output.clone(), inputs.detach()
            output.register_hook(lambda gradient: self._add(layer, given, gradient.detach()))  # type: ignore[no-untyped-call]
        return output

    def _add(self, layer: Layer, inputs: Tensor, gradient: Tensor) -> None:
        dtype = self.rows.dtype
        if isinstance(layer, nn.Linear):
            x = inputs.reshape(self.size, -1, layer.in_features).to(dtype)
            g = gradient.reshape(self.size, -1, layer.out_features).to(dtype)
            self.rows.baddbmm_(g.transpose(1, 2), x, beta=1, alpha=self.size)
            return
        groups, positions = layer.groups, gradient[0, 0].numel()
        grouped = gradient.reshape(self.size, groups, -1, positions).to(dtype)
        first = 0
        for patches in input_rows(layer, inputs):
            count = patches.shape[1] // positions
            x = patches.reshape(groups, count, positions, -1).to(dtype)
            found = torch.einsum("bgop,gbpc->bgoc", grouped[first : first + count], x)
            self.rows[first : first + count] += found.reshape(count, *self.weight.shape) * self.size
            first += count

    def agrees(self, gradient: Tensor) -> bool:
        """Whether the gradients add up to ``gradient``, so that no use of the weight was missed."""
        off = torch.linalg.vector_norm(self.rows.sum(dim=0) / self.size - gradient)
        tolerance = max(1e-3, 8 * torch.finfo(gradient.dtype).eps)
        return self.complete and bool(off <= tolerance * torch.linalg.vector_norm(self.rows) / self.size**0.5)


@contextmanager
def _watching(targets: Sequence[Target], size: int) -> Iterator[dict[Target, _Recorder]]:
    """Record the gradients of a batch of ``size`` samples at the layers of ``targets``."""
    recorders = {target: _Recorder(target, size) for target in targets}
    with ExitStack() as stack:
        for target, recorder in recorders.items():

            def hook(
                layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, r: _Recorder = recorder
            ) -> Tensor:
                assert isinstance(layer, (nn.Linear, nn.Conv2d))
                return r.see(layer, args[0] if args else kwargs["input"], output)

            for layer in target.layers:
                stack.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
        yield recorders


def _rows(target: Target, total: int) -> int:
    """How many gradients of ``total`` samples are kept apart."""
    fitting = ROOM // max(1, target.weight.numel() * _dtype(target.weight).itemsize)
    return min(total, MOST, max(LEAST, fitting))


def _dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _size(batch: Any) -> int:
    """Samples in a batch: the first dimension of its first tensor that has one."""
    return next((len(value) for value in tensors_in(batch) if value.dim()), 1)


def _cuttable(batch: Any) -> bool:
    """Whether every tensor of ``batch`` that has dimensions has the samples first."""
    return {len(value) for value in tensors_in(batch) if value.dim()} == {_size(batch)}


def _cut(batch: Any, sample: int) -> Any:
    """``batch`` with one of its samples."""
    if isinstance(batch, Tensor):
        return batch[sample : sample + 1] if batch.dim() else batch
    if isinstance(batch, Mapping):
        return {name: _cut(value, sample) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(_cut(value, sample) for value in batch)
    return batch
