"""The strategies of ShrinkBench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sparsekit.batches import describe, evaluating
from sparsekit.errors import CalibrationError, LayerError, PruningError
from sparsekit.mask import Mask
from sparsekit.pruning.frameworks.writing import expect_strategy, zeroed
from sparsekit.pruning.statistics import LossFunction, ModelView, Target
from sparsekit.pruning.statistics.backward import differentiable, gradients, loss_of
from sparsekit.pruning.targets import find_targets

STRATEGIES = (
    "Random",
    *(f"{scope}{score}" for scope in ("Global", "Layer") for score in ("MagWeight", "MagGrad", "MagAct")),
)

Numbers = npt.NDArray[np.float32]


def shrinkbench_prune(  # noqa: PLR0913 - the settings of a ShrinkBench experiment together
    model: nn.Module,
    strategy: str,
    compression: float,
    *,
    batch: Any = None,
    loss_fn: LossFunction | None = None,
    classifier: str | Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Mask]:
    """Prune weights and biases in place as ShrinkBench does, and return the masks by parameter name.

    The fraction that stays is ``(total / compression - others) / prunable``, where ``total`` counts every parameter
    of the model. The threshold is numpy's interpolated quantile, and what lies on it stays.

    Args:
        model: any module.
        strategy: ``Random`` (each parameter stays with that probability), or ``Global`` or ``Layer`` followed by
            ``MagWeight`` (``|w|``), ``MagGrad`` (``|w * gradient|``) or ``MagAct`` (``|w|`` times the mean over the
            input channel's places of the size of the mean input; a bias takes the mean over the channels).
        compression: parameters before over parameters after, at least 1.
        batch: one batch for MagGrad and MagAct, as :func:`sparsekit.prune` takes it.
        loss_fn: ``loss_fn(model, batch)`` for MagGrad; BatchNorm then normalises by the batch. Dropout stays off.
        classifier: names of the layers that stay dense; None takes those with an attribute ``is_classifier``, and
            where there is none the last Linear.
        seed: of ``Random``, whose draws are torch's, not numpy's.

    Raises:
        PruningError: the strategy is unknown, or the rest of the model is too large for the compression.
        CalibrationError: the batch or the loss function is missing or refused.
        LayerError: nothing is left to prune, or the classifier is unknown.

    Source: Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?".
    """
    expect_strategy(strategy, STRATEGIES)
    heads = _classifiers(model, classifier)
    weights = find_targets(model, lambda name, module: name not in heads)
    parameters = _with_biases(weights)
    fraction = _fraction_to_keep(model, parameters, compression)
    if strategy == "Random":
        generator = torch.Generator().manual_seed(seed)
        draws = {t.name: torch.rand(t.weight.shape, generator=generator).to(t.weight.device) for t in parameters}
        return zeroed({t.name: (t.weight, draws[t.name] <= fraction) for t in parameters})
    scores = _importances(strategy, ModelView(model, parameters, [batch], loss_fn), weights)
    return zeroed(
        {
            target.name: (target.weight, torch.from_numpy(keep).to(target.weight.device))
            for target, keep in zip(parameters, _choose(strategy, parameters, scores, fraction))
        }
    )


def _choose(
    strategy: str, parameters: Sequence[Target], scores: Mapping[str, Numbers], fraction: float
) -> Iterable[npt.NDArray[np.bool_]]:
    """Keep what is on or above the threshold, one for all or one for each parameter."""
    common = np.concatenate([scores[target.name].reshape(-1) for target in parameters])
    for target in parameters:
        pool = common if strategy.startswith("Global") else scores[target.name]
        yield np.asarray(scores[target.name] >= np.quantile(pool, 1 - fraction))


def _classifiers(model: nn.Module, classifier: str | Sequence[str] | None) -> set[str]:
    """The names of the layers that stay dense."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    if classifier is not None:
        names = {classifier} if isinstance(classifier, str) else set(classifier)
        for name in sorted(names - set(layers)):
            raise LayerError(f"classifier: expected the name of a Linear or Conv2d, got {name!r}")
        return names
    marked = {name for name, module in layers.items() if getattr(module, "is_classifier", False)}
    linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    return marked or set(linear[-1:])


def _with_biases(weights: Sequence[Target]) -> list[Target]:
    """Every parameter of the layers, each weight followed by its layer's bias."""
    found: dict[int, Target] = {}
    for target in weights:
        found[id(target.weight)] = target
        for layer in target.layers:
            if isinstance(layer.bias, nn.Parameter):
                name = target.name.removesuffix("weight") + "bias"
                found.setdefault(id(layer.bias), Target(name, layer.bias, (layer,)))
    return list(found.values())


def _fraction_to_keep(model: nn.Module, parameters: Sequence[Target], compression: float) -> float:
    """What stays of the prunable parameters, so that the whole model shrinks by ``compression``."""
    total = sum(parameter.numel() for parameter in model.parameters())
    prunable = sum(target.weight.numel() for target in parameters)
    if not compression >= 1:
        raise PruningError(f"compression: expected at least 1, got {compression}")
    fraction = (total / compression - (total - prunable)) / prunable
    if not fraction > 0:
        raise PruningError(
            f"compression: expected less than {total / max(1, total - prunable):g}, since {total - prunable} of "
            f"{total} parameters stay, got {compression:g}"
        )
    return fraction


def _importances(strategy: str, view: ModelView, weights: Sequence[Target]) -> dict[str, Numbers]:
    """The score of every parameter, at least 0."""
    values = {target.name: _numbers(target.weight) for target in view.targets}
    if strategy.endswith("MagWeight"):
        return {name: np.abs(value) for name, value in values.items()}
    if view.batches[0] is None:
        raise CalibrationError(f"batch: {strategy} needs a batch of what the model takes, got None")
    if strategy.endswith("MagAct"):
        factors = _activations(view, weights)
    elif not callable(view.loss_fn):
        raise CalibrationError(
            f"loss_fn: {strategy} needs loss_fn(model, batch), a scalar tensor, got {view.loss_fn!r}"
        )
    else:
        with differentiable(view, batch_statistics=True) as tensors:
            found = gradients(view, loss_of(view, 0), tensors)
        factors = {target.name: _numbers(gradient) for target, gradient in zip(view.targets, found)}
    return {name: np.abs(value * factors[name]) for name, value in values.items()}


def _activations(view: ModelView, weights: Sequence[Target]) -> dict[str, Numbers]:
    """What the importance of each weight and bias is multiplied by, from its layer's mean input."""
    seen: dict[nn.Module, Tensor] = {}

    def see(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[layer] = (args[0] if args else kwargs["input"]).detach().float()

    handles = [layer.register_forward_pre_hook(see, with_kwargs=True) for t in weights for layer in t.layers]
    try:
        with evaluating(view.model):
            view.run(view.batches[0])
    except Exception as error:
        got = describe(view.batches[0])
        raise CalibrationError(f"batch: expected what the model takes, got {got}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    factors: dict[str, Numbers] = {}
    for target in weights:
        layer = target.layers[0]
        if layer not in seen:
            raise CalibrationError(f"{target.name}: expected a batch that reaches it, got one that does not")
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise PruningError(f"{target.name}: MagAct has no rule for a convolution with {layer.groups} groups")
        channels = seen[layer].mean(dim=0).abs()
        sizes = (
            channels.mean(dim=(1, 2))
            if isinstance(layer, nn.Conv2d)
            else channels.reshape(-1, target.weight.shape[1]).mean(dim=0)
        )
        factors[target.name] = _numbers(sizes.reshape(1, -1, *[1] * (target.weight.dim() - 2)))
        factors[target.name.removesuffix("weight") + "bias"] = _numbers(sizes.mean())
    return factors


def _numbers(tensor: Tensor) -> Numbers:
    """``tensor`` as a float32 array."""
    found: Numbers = tensor.detach().float().cpu().numpy()
    return found
