"""What the loss would do if the outputs of a layer were scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.batches import tensors_in
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics.backward import differentiable, loss_of
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView, Target


@dataclass(frozen=True, eq=False)
class GateGradients(ModelStatistic):
    """The gradient of each sample's loss with respect to gates of 1 that the outputs of a layer are multiplied by.

    An output (a filter of a Conv2d, a row of a Linear) has one gate ``z`` per sample; it multiplies what the layer
    returns, bias included, at every position, so that ``dL/dz = sum over positions of a * dL/da``. The first dimension
    of what a layer returns is the sample; ``(batch, tokens, out)`` has one position per token. A layer that is used
    several times, or whose weight is tied, has the same gate in all its uses; uses with another number of samples
    count as samples of their own. The model is in eval mode.

    Args:
        samples: ``(samples, out)``, of all batches; each of its own loss, the loss of a batch being their mean.
        sizes: samples per batch.
        positions: per batch, how many outputs of a sample a gate multiplies.
    """

    samples: Tensor
    sizes: tuple[int, ...]
    positions: tuple[float, ...]

    def by_batch(self) -> Tensor:
        """The gradient of each batch's loss, ``(batches, out)``."""
        return torch.stack([part.mean(dim=0) for part in torch.split(self.samples, list(self.sizes))])

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Four bytes per sample and output, samples counted in the first tensor of each batch."""
        first = [next(tensors_in(batch), None) for batch in batches]
        return 4 * len(target.weight) * sum(len(value) for value in first if value is not None and value.dim())

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        found: dict[Target, list[tuple[Tensor, float]]] = {target: [] for target in view.targets}
        with differentiable(view) as weights:
            for weight in weights:
                weight.requires_grad_(False)
            for index in range(len(view.batches)):
                with _gated(view.targets) as uses:
                    loss = loss_of(view, index)
                for target, slopes in _slopes(loss, uses).items():
                    found[target].append(_merged(slopes, uses[target]))
        return {target.name: cls._of(target, parts) for target, parts in found.items()}

    @classmethod
    def _of(cls, target: Target, parts: list[tuple[Tensor, float]]) -> Self:
        if not parts:
            raise CalibrationError(f"{target.name}: expected batches that reach it, got none that does")
        samples = [samples for samples, _ in parts]
        return cls(torch.cat(samples), tuple(map(len, samples)), tuple(positions for _, positions in parts))


@dataclass(frozen=True)
class _Uses:
    """The gates that a target's layers multiplied their outputs by in one batch, one entry per use."""

    gates: list[Tensor] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    """``(samples, positions per sample)``."""


@contextmanager
def _gated(targets: Sequence[Target]) -> Iterator[dict[Target, _Uses]]:
    """Multiply by gates what the layers of ``targets`` return, and note each use.

    A product instead of the layer's output itself is what is differentiated, because the operation after a layer may
    change its output in place.
    """
    uses: dict[Target, _Uses] = {}

    def hook(target: Target, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        channel = output.dim() - (1 if isinstance(layer, nn.Linear) else 3)
        samples = len(output) if channel else 1
        shape = [1] * output.dim()
        shape[0], shape[channel] = samples, output.shape[channel]
        gate = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        noted = uses.setdefault(target, _Uses())
        noted.gates.append(gate)
        noted.shapes.append((samples, output.numel() // max(1, gate.numel())))
        return output * gate

    with ExitStack() as stack:
        for target in targets:
            for layer in target.layers:
                stack.callback(layer.register_forward_hook(partial(hook, target)).remove)
        yield uses


def _slopes(loss: Tensor, uses: dict[Target, _Uses]) -> dict[Target, list[Tensor]]:
    """The gradient of ``loss`` with respect to each gate."""
    gates = [gate for noted in uses.values() for gate in noted.gates]
    found = iter(torch.autograd.grad(loss, gates, allow_unused=True))
    slopes: dict[Target, list[Tensor]] = {}
    for target, noted in uses.items():
        parts = [next(found) for _ in noted.gates]
        if all(part is None for part in parts):
            raise CalibrationError(f"{target.name}: expected a loss that depends on it, got one that does not")
        slopes[target] = [torch.zeros_like(gate) if part is None else part for gate, part in zip(noted.gates, parts)]
        if not all(bool(torch.isfinite(part).all()) for part in slopes[target]):
            raise CalibrationError(f"{target.name}: expected finite gradients, got NaN or infinite ones")
    return slopes


def _merged(slopes: list[Tensor], uses: _Uses) -> tuple[Tensor, float]:
    """The samples of one batch, ``(samples, out)``, and their positions, from all uses of the layer."""
    rows = [
        slope.reshape(samples, -1).to(torch.promote_types(slope.dtype, torch.float32))
        for slope, (samples, _) in zip(slopes, uses.shapes)
    ]
    aligned = len({len(row) for row in rows}) == 1
    samples = torch.stack(rows).sum(dim=0) if aligned else torch.cat(rows)
    count = sum(samples * positions for samples, positions in uses.shapes)
    return samples * len(samples), count / max(1, len(samples))
