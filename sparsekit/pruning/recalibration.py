"""Measure again what BatchNorm normalises by, after pruning has changed what reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsekit.batches import call_model, evaluating, expect_module
from sparsekit.errors import CalibrationError, LayerError
from sparsekit.pruning.statistics.forward import attempt


def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set the running mean and variance of every BatchNorm to those of what reaches it, over all ``batches``.

    A single BatchNorm gets the mean and the unbiased variance of its inputs of all batches put together, whatever the
    sizes of the batches. Each batch is normalised by its own statistics on its way, as in training, while everything
    else is in eval mode: dropout is off. Modes, momentum and the count of batches stay as they are, and nothing but the
    running averages changes; on any error these do not either.

    Args:
        model: any module with a BatchNorm that has running averages.
        batches: iterable of what ``model(...)`` takes: tensor, tuple (positional) or mapping (keywords).

    Raises:
        LayerError: there is no BatchNorm with running averages.
        CalibrationError: there are no batches, the model refuses one, they do not reach a BatchNorm, or give NaN.
    """
    expect_module(model)
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise LayerError("model: expected a BatchNorm with running averages, got none")
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise CalibrationError(f"batches: expected a list or another iterable, got one {type(batches).__name__}")
    with _restoring(list(norms.values())):
        moments = _measure(model, norms, batches)
    with torch.no_grad():
        for name, norm in norms.items():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(moments[name].mean)
            norm.running_var.copy_(moments[name].squares / (moments[name].count - 1))


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations of the values of each channel, in float64."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take in what ``norm`` is called with, ``(batch, channels, ...)``."""
        value: Tensor = args[0] if args else kwargs["input"]
        values = value.detach().double().transpose(0, 1).flatten(1)
        new = values.shape[1]
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        total, step = self.count + new, mean - self.mean
        self.squares = self.squares + variance * new + step.square() * (self.count * new / total)
        self.mean = self.mean + step * (new / total)
        self.count = total


def _measure(model: nn.Module, norms: Mapping[str, _BatchNorm], batches: Iterable[Any]) -> dict[str, _Moments]:
    """Run all batches; the moments of what reaches each of ``norms``."""
    moments = {name: _Moments() for name in norms}
    count = 0
    with evaluating(model), ExitStack() as stack:
        for name, norm in norms.items():
            norm.training = True
            stack.callback(norm.register_forward_pre_hook(moments[name].add, with_kwargs=True).remove)
        for count, batch in enumerate(batches, start=1):
            attempt(partial(call_model, model), count - 1, batch)
    if not count:
        raise CalibrationError(f"batches: expected at least one, got an empty {type(batches).__name__}")
    for name, found in moments.items():
        if not found.count:
            raise CalibrationError(f"{name}: expected batches that reach this BatchNorm, got {count} that do not")
        if not bool(torch.isfinite(found.squares).all()):
            raise CalibrationError(f"{name}: expected finite inputs of this BatchNorm, got NaN or infinite ones")
    return moments


@contextmanager
def _restoring(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Put back the buffers of ``norms``, which running in training mode changes."""
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
