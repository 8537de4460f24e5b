"""Which parameters are pruned, and whether they can be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsekit.batches import expect_module
from sparsekit.errors import LayerError
from sparsekit.pruning.statistics import Layer, Target

Choice = Callable[[str, nn.Module], bool] | Iterable[str] | None


class PrunableList(list[tuple[str, tuple[int, ...]]]):
    """Names and shapes of parameters; prints one per line, and their number of weights."""

    def __str__(self) -> str:
        lines = [f"{name} {' x '.join(map(str, shape))}" for name, shape in self]
        return "\n".join([*lines, f"{sum(math.prod(shape) for _, shape in self):,} weights"])


def prunable(model: nn.Module, layers: Choice = None) -> PrunableList:
    """Return what ``prune`` would prune, ``(parameter name, shape)``, in its order; tied weights come once.

    Biases, norms and embeddings are never in it.

    Args:
        model: any module.
        layers: ``(name, module) -> bool`` over every Linear and Conv2d, or names of layers; None takes them all.

    Raises:
        LayerError: as :func:`find_targets`.
    """
    return PrunableList((target.name, tuple(target.weight.shape)) for target in find_targets(model, layers))


def find_targets(model: nn.Module, choice: Choice = None) -> list[Target]:
    """Find the weights to prune, in the order of ``model.named_modules()``; tied weights come once.

    Args:
        model: any module.
        choice: ``(name, module) -> bool`` over every Linear and Conv2d, or the names of layers; None takes them all.

    Raises:
        LayerError: ``model`` is not a module, nothing matches, a name is unknown, or a weight cannot be pruned (meta
            device, integer dtype, NaN).
    """
    expect_module(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    chosen = _chosen(model, layers, choice)
    if not chosen:
        raise LayerError(f"layers: expected a choice of at least one Linear or Conv2d, got none of the {len(layers)}")
    users: dict[int, list[Layer]] = {}
    for layer in layers.values():
        users.setdefault(id(layer.weight), []).append(layer)
    targets: dict[int, Target] = {}
    for name, layer in chosen.items():
        parameter = f"{name}.weight" if name else "weight"
        weight = _prunable(parameter, layer)
        targets.setdefault(id(weight), Target(parameter, weight, tuple(users[id(weight)])))
    return list(targets.values())


def _chosen(model: nn.Module, layers: dict[str, Layer], choice: Choice) -> dict[str, Layer]:
    """The layers that ``choice`` picks, by module name."""
    if choice is None:
        return layers
    if callable(choice):
        return {name: layer for name, layer in layers.items() if choice(name, layer)}
    names = {choice} if isinstance(choice, str) else set(choice)
    modules = dict(model.named_modules())
    for name in sorted(names - set(layers)):
        if name in modules:
            raise LayerError(f"layers: expected a Linear or Conv2d, got {name!r}, a {type(modules[name]).__name__}")
        close = difflib.get_close_matches(name, layers, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise LayerError(f"layers: expected names of Linear or Conv2d layers, got {name!r}, which is not there{hint}")
    return {name: layer for name, layer in layers.items() if name in names}


def _prunable(name: str, layer: Layer) -> nn.Parameter:
    """The weight called ``name``; raise :class:`LayerError` unless it can be pruned in place."""
    weight: Tensor = layer.weight
    if is_lazy(weight):
        raise LayerError(f"{name}: expected an initialised weight, got a lazy one; run the model once first")
    if weight.is_meta:
        raise LayerError(f"{name}: expected a weight with values, got one on the meta device")
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise LayerError(f"{name}: expected a float32, float64, bfloat16 or float16 weight, got {weight.dtype}")
    if not isinstance(weight, nn.Parameter):
        raise LayerError(f"{name}: expected a parameter, got a computed tensor; remove its parametrization first")
    if bad := _not_finite(weight):
        raise LayerError(f"{name}: expected finite weights, got {bad} NaN or infinite of {weight.numel()}")
    return weight


def _not_finite(weight: Tensor) -> int:
    """How many values of ``weight`` are not finite, on all ranks together where it is sharded."""
    bad = (~torch.isfinite(weight.detach())).sum()
    return int(bad.full_tensor() if hasattr(bad, "full_tensor") else bad)  # else each rank would count its own part
