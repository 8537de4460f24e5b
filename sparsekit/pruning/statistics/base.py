"""What a statistic is: something that calibration finds out about a layer for a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.batches import call_model

Layer = nn.Linear | nn.Conv2d
LossFunction = Callable[[nn.Module, Any], Tensor]
S = TypeVar("S", bound="Statistic")


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter to prune: its name, itself, and every layer that uses it (several where weights are tied)."""

    name: str
    weight: nn.Parameter
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class ModelView:
    """A model and what it is judged by.

    Args:
        model: as the user gave it; whoever looks at it leaves it as it was, modes, buffers and gradients included.
        targets: the parameters that are looked at.
        batches: of what the loss function takes, or else the model; empty where the method needs none.
        loss_fn: ``loss_fn(model, batch)``, a scalar, the mean over the samples of the batch; None where there is none.
    """

    model: nn.Module
    targets: Sequence[Target]
    batches: Sequence[Any]
    loss_fn: LossFunction | None = None

    def run(self, batch: Any) -> Any:
        """Run the model on ``batch``, through the loss function where there is one: it knows the labels in a batch."""
        return call_model(self.model, batch) if self.loss_fn is None else self.loss_fn(self.model, batch)


class Statistic(ABC):  # noqa: B024 - a word for two kinds
    """Something found out about a layer: from its inputs, or from the whole model."""

    @classmethod
    def footprint(cls, target: Target, batches: Sequence[Any]) -> int:
        """Bytes that the statistic of ``target`` takes; large ones are collected for a few layers at a time."""
        return 0


class ModelStatistic(Statistic):
    """Something found out about every layer at once, by running the whole model in its own way."""

    needs_batches: ClassVar[bool] = True
    """Whether it reads the batches."""

    needs_loss: ClassVar[bool] = True
    """Whether it calls the loss function."""

    @classmethod
    def using(cls, **settings: float) -> type[Self]:
        """Return this statistic with other values of its class attributes: one type per set of values."""
        key = (cls, tuple(sorted(settings.items())))
        if key not in _VARIANTS:
            _VARIANTS[key] = type(cls.__name__, (cls,), {"__module__": cls.__module__, **settings})
        return cast(type[Self], _VARIANTS[key])

    @classmethod
    @abstractmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Return the statistic of each of ``view.targets``, by parameter name.

        Raises:
            CalibrationError: the model or the loss function refuses a batch, or a layer is not reached.
        """


_VARIANTS: dict[tuple[type[ModelStatistic], tuple[tuple[str, float], ...]], type[ModelStatistic]] = {}
Needs = tuple[type[Statistic], ...]


@dataclass(frozen=True)
class LayerStatistics:
    """What was collected for one parameter: ``stats[Gram]``, ``stats.name``."""

    name: str
    collected: Mapping[type[Statistic], Statistic] = field(default_factory=dict)

    def __getitem__(self, kind: type[S]) -> S:
        found = self.collected[kind]
        assert isinstance(found, kind)
        return found
