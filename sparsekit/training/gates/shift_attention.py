"""Attention over the positions of each kernel, sharpened until one weight is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.patterns import OnePerKernel, Pattern
from sparsekit.patterns.taps import taps_of
from sparsekit.training.gates.base import GATE, LATENT, GatedMethod
from sparsekit.training.gates.unit_gates import precise
from sparsekit.training.schedules import Exponential
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive

TEMPERATURE = "temperature"
TINY = 1e-12
"""Variance that is added, so that equal attentions are divided by something."""


@dataclass(frozen=True)
class ShiftAttention(GatedMethod):
    """Multiplies each kernel by a softmax over its positions, ``softmax(T * A / std(A))``, with a ``T`` that grows.

    ``A`` is learned for every kernel. In the end the position with the largest ``A`` stays, so that a convolution is a
    shift of each input channel and a 1 x 1 convolution. Factors are small at first, ``1 / taps`` on average: normalise
    activations after the layer.

    Args:
        start: ``T`` at the first step.
        stop: ``T`` at the last step; between them it grows by the same factor every step. The authors' code takes 0.15
            and 60 for ImageNet, 20 and 70 for CIFAR.
        shared: all kernels that read the same input channel share one ``A``, so that each channel has a single shift.
        learning_rate: of Adam, on ``A``, which starts from the uniform distribution on (0, 1).

    Raises:
        PruningError: an argument is not above 0.

    Source: Hacene, Lassance, Gripon, Courbariaux, Bengio 2019, "Attention Based Pruning for Shift Networks",
    algorithm 1. The authors learn ``A`` by SGD.
    """

    start: float = 0.15
    stop: float = 60.0
    shared: bool = False
    learning_rate: float = 0.01
    default_pattern: ClassVar[Pattern] = OnePerKernel()

    def __post_init__(self) -> None:
        check_positive(start=self.start, stop=self.stop, learning_rate=self.learning_rate)

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Refuse all patterns but one weight per kernel."""
        return None if isinstance(pattern, OnePerKernel) else f"needs OnePerKernel(), got {pattern}"

    def anneal(self, state: State, step: int) -> None:
        """Raise ``T``."""
        state.numbers[TEMPERATURE] = Exponential(self.start, self.stop, 0, max(1, state.steps - 1)).value(step)
        state.note(TEMPERATURE, state.numbers[TEMPERATURE])

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return ``A``, ``(out or 1, in, taps)``."""
        shape = (1 if self.shared else site.shape[0], site.shape[1], taps_of(site.shape))
        return {"attention": state.uniform(shape, precise(weight))}

    def attention(self, scores: Tensor, temperature: float) -> Tensor:
        """Return the softmax over the last axis of ``scores``, divided by their standard deviation there."""
        centred = scores - scores.mean(dim=-1, keepdim=True)
        variance = centred.square().sum(dim=-1, keepdim=True) / max(1, scores.shape[-1] - 1)
        return (temperature * centred / (variance + TINY).sqrt()).softmax(dim=-1)

    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the kernels times their attention."""
        attention = self.attention(gates["attention"], state.numbers[TEMPERATURE])
        return weight * _over_kernels(site, attention)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return ``A``: the largest of each kernel stays."""
        return {site.name: _over_kernels(site, site.tensors[GATE + "attention"]) for site in state.sites}

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the learned weights: the attention of the one that stays is 1."""
        return site.tensors[LATENT].clone()


def _over_kernels(site: Site, values: Tensor) -> Tensor:
    """Return ``(out or 1, in, taps)`` in the weight's shape."""
    return values.expand(site.shape[0], -1, -1).reshape(site.shape)
