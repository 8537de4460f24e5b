"""How much attention a small network pays to each output of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from sparsekit.errors import CalibrationError
from sparsekit.pruning.seeding import generator
from sparsekit.pruning.statistics.backward import differentiable, loss_of
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView, Target


@dataclass(frozen=True)
class Training:
    """How attention is trained: ``steps`` of Adam at ``rate``, one batch each, ``1 / reduction`` hidden units."""

    steps: int = 32
    rate: float = 1e-2
    reduction: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ChannelAttention(ModelStatistic):
    """The mean over all samples of ``sigmoid(B relu(A mean(y) + a) + b)``, ``(out,)``, where ``y`` is the output.

    One such network per layer looks at the layer's output ``y``, averaged over its positions, and multiplies ``y`` by
    twice what it says, sample by sample. ``B`` starts at zero, so that the model starts as it is, and whatever differs
    between outputs has been learnt. All networks are trained at once on the loss, while the model stays fixed in eval
    mode; then the batches run once more without training, and the means are taken. A layer that is used several times
    has one network.
    """

    training: ClassVar[Training] = Training()

    mean: Tensor

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Return 0: what is kept is small, and all layers are trained together."""
        return 0

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Train, then run each batch once; see :meth:`ModelStatistic.collect`."""
        networks = {target: _Attention(target, cls.training) for target in view.targets}
        numbers = [number for network in networks.values() for number in network.numbers]
        optimizer = torch.optim.Adam(numbers, lr=cls.training.rate)
        with differentiable(view) as weights, _attached(networks):
            for weight in weights:
                weight.requires_grad_(False)
            for step in range(cls.training.steps):
                loss = loss_of(view, step % len(view.batches))
                for number, slope in zip(numbers, torch.autograd.grad(loss, numbers, allow_unused=True)):
                    number.grad = slope
                optimizer.step()
            for network in networks.values():
                network.start()
            for index in range(len(view.batches)):
                loss_of(view, index)
        return {target.name: cls(network.mean()) for target, network in networks.items()}


@cache
def trained(training: Training) -> type[ChannelAttention]:
    """Return :class:`ChannelAttention` with settings of one's own; the same class for the same settings."""
    return type(ChannelAttention.__name__, (ChannelAttention,), {"training": training})


@dataclass(eq=False)
class _Attention:
    """The network of one layer, and the sum of what it has returned."""

    target: Target
    training: Training
    numbers: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None
    samples: int = 0

    def __post_init__(self) -> None:
        weight = self.target.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        source = generator(self.training.seed, self.target.name)
        wide, hidden = len(weight), max(1, len(weight) // self.training.reduction)
        first = torch.randn(hidden, wide, generator=source, dtype=torch.float64) / max(1, wide) ** 0.5
        parts = (first, torch.zeros(hidden), torch.zeros(wide, hidden), torch.zeros(wide))
        self.numbers = [part.to(weight.device, dtype).requires_grad_() for part in parts]

    def start(self) -> None:
        """Forget what was seen in training."""
        self.total, self.samples = torch.zeros_like(self.numbers[-1], dtype=torch.float64), 0

    def mean(self) -> Tensor:
        """The mean of what was returned since :meth:`start`, ``(out,)``, float64."""
        if self.total is None or not self.samples:
            raise CalibrationError(f"{self.target.name}: expected batches that reach it, got none that does")
        return self.total / self.samples

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Multiply ``output`` of ``layer`` by the attention that it gets."""
        channel = output.dim() - (1 if isinstance(layer, nn.Linear) else 3)
        positions = [dim for dim in range(output.dim()) if dim != channel and (dim or not channel)]
        squeezed = output.to(self.numbers[0].dtype)
        squeezed = squeezed.mean(dim=positions, keepdim=True) if positions else squeezed
        rows = squeezed.reshape(-1, output.shape[channel])
        first, first_bias, second, second_bias = self.numbers
        attention = torch.sigmoid(F.linear(F.relu(F.linear(rows, first, first_bias)), second, second_bias))
        if self.total is not None:
            self.total += attention.detach().sum(dim=0, dtype=torch.float64)
            self.samples += len(attention)
        return output * 2 * attention.reshape(squeezed.shape).to(output.dtype)


@contextmanager
def _attached(networks: dict[Target, _Attention]) -> Iterator[None]:
    """Let each layer's output be multiplied by its attention."""
    with ExitStack() as stack:
        for target, network in networks.items():
            for layer in target.layers:
                stack.callback(layer.register_forward_hook(network.__call__).remove)
        yield
