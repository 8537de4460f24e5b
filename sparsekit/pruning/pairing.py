"""The dense model beside the one that is being pruned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.errors import CalibrationError, LayerError
from sparsekit.pruning.replay import Replay
from sparsekit.pruning.statistics import ModelView, Target
from sparsekit.pruning.watching import Reached, attempt, watched_eval, watching, watching_sums

Seen = tuple[Tensor, Tensor | None]
"""The input of a call of a layer, and what its output is added to, where that was asked for."""


@dataclass
class DenseInputs:
    """What each target got in the dense model for one batch, in the order of its calls."""

    inputs: dict[str, list[Seen]]

    def next(self, target: Target, value: Tensor) -> Seen:
        """Return the dense partner of ``value``, the input of the next call of ``target``.

        Raises:
            CalibrationError: the dense model calls the layer less often, or with an input of another shape.
        """
        waiting = self.inputs.get(target.name, [])
        if not waiting or waiting[0][0].shape != value.shape:
            came = tuple(waiting[0][0].shape) if waiting else "no such call"
            raise CalibrationError(
                f"{target.name}: expected the dense model to give it an input of shape {tuple(value.shape)} too, "
                f"got {came}"
            )
        return waiting.pop(0)


class Twin:
    """A dense model that runs as the pruned one does; a context manager that leaves both as they were.

    Args:
        view: the model that is pruned, and the batches.
        dense: a model with the same layers; None copies the model as it is now.

    Raises:
        CalibrationError: the model cannot be copied.
        LayerError: ``dense`` lacks a layer, or has it in another shape.
    """

    def __init__(self, view: ModelView, dense: nn.Module | None = None) -> None:
        model = _copied(view.model) if dense is None else dense
        names = {id(module): name for name, module in view.model.named_modules()}
        self.targets = {
            target.name: _partner(target, [names[id(layer)] for layer in target.layers], model)
            for target in view.targets
        }
        self.view = replace(view, model=model, targets=list(self.targets.values()))
        self.replay = Replay(model, [target.weight for target in self.view.targets])
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        self.stack.enter_context(watched_eval(self.view.model))
        self.stack.enter_context(self.replay)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def inputs(
        self, watched: Sequence[Target], before: Sequence[Target], index: int, *, stop: bool, sums: bool
    ) -> DenseInputs:
        """Run batch ``index``, and return what ``watched`` get; ``before`` are those that :meth:`passed` names next."""
        found = DenseInputs({})

        def see(target: Target, layer: nn.Module, value: Tensor, addend: Tensor | None = None) -> None:
            # what a run goes on from may be written into by the model later
            seen = (value, addend) if stop else (value.clone(), None if addend is None else addend.clone())
            found.inputs.setdefault(target.name, []).append(seen)
            if stop:
                raise Reached

        run = partial(self.replay.run, [self.targets[target.name].weight for target in before], self.view.run)
        partners = [self.targets[target.name] for target in watched]
        with watching_sums(partners, see) if sums else watching(partners, see):
            attempt(run, index, self.view.batches[index])
        return found

    def passed(self, targets: Sequence[Target]) -> None:
        """Say that nothing before ``targets``, nor they themselves, will be watched again."""
        for target in targets:
            self.replay.changed(self.targets[target.name].weight)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise CalibrationError(
            f"expected a model that can be copied, to compare its layers' inputs before and after, and copying raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _partner(target: Target, names: Sequence[str], model: nn.Module) -> Target:
    """The target of ``model`` whose layers are called ``names``."""
    modules = dict(model.named_modules())
    layers = []
    for name in names:
        layer = modules.get(name)
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or layer.weight.shape != target.weight.shape:
            came = "no such layer" if layer is None else f"{type(layer).__name__}"
            raise LayerError(f"dense: expected {name!r} to be a layer like that of the pruned model, got {came}")
        layers.append(layer)
    weight = layers[0].weight
    assert isinstance(weight, nn.Parameter)
    return Target(target.name, weight, tuple(layers))
