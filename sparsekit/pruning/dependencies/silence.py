"""Take what is added behind a removed output away, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import LayerError
from sparsekit.mask import Mask
from sparsekit.pruning.dependencies.axes import Axis, ends, resolve
from sparsekit.pruning.dependencies.trace import Dependencies, follow


@torch.no_grad()
def silence(model: nn.Module, masks: Mapping[str, Mask], example_inputs: Any) -> dict[str, Tensor]:
    """Zero the biases, and the scales and shifts of normalisations, of outputs that have lost all their weights.

    A mask is over a weight alone: an output without weights is still its bias, and BatchNorm makes its own constant of
    it. After this the output is zero, as if it were not there, wherever an activation maps zero to zero. A channel
    that several layers add up to (a residual) goes silent only where all of them lost it, and one that anything else
    than a Linear or a convolution writes (an embedding) never does.

    Args:
        model: changed in place.
        masks: by parameter name, as :func:`~sparsekit.pruning.prune` returns them.
        example_inputs: what the model takes; one run on them tells which parameters belong to which outputs.

    Returns:
        by name of each parameter that changed, ``(channels,)``, True where it was zeroed.

    Raises:
        LayerError: a mask has no parameter.
        InputError: the model refuses the inputs.
    """
    parameters = dict(model.named_parameters())
    for name in masks:
        if name not in parameters:
            raise LayerError(f"masks: expected names of parameters, got {name!r}, which is not there")
    dependencies = follow(model, example_inputs)
    readers = _readers(model)
    changed = {}
    for name, parameter in parameters.items():
        axes = dependencies.axes.get(name, [])
        if len(axes) != 1 or not parameter.is_floating_point():
            continue
        gone = _gone(resolve(axes[0]), dependencies, masks, readers)
        if gone is not None and bool(gone.any()):
            parameter.masked_fill_(gone.to(parameter.device), 0.0)
            changed[name] = gone
    return changed


def _readers(model: nn.Module) -> set[str]:
    """Names of the weights whose rows make outputs and whose columns read inputs."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {f"{name}.weight" if name else "weight" for name, m in model.named_modules() if isinstance(m, kinds)}


def _gone(axis: Axis, dependencies: Dependencies, masks: Mapping[str, Mask], readers: set[str]) -> Tensor | None:
    """Which channels of ``axis`` all that write it have lost; None where something writes it that has no mask."""
    leaves = {end for leaf in axis for end in ends((leaf,))}
    gone: Tensor | None = None
    for name, axes in dependencies.axes.items():
        if len(axes) < 2 or not leaves:
            continue
        for dim, other in enumerate(axes):
            if not leaves <= set(ends(other)) or (dim == 1 and name in readers):
                continue
            if dim != 0 or name not in masks or name not in readers or resolve(other) != axis:
                return None
            lost = ~masks[name].keep.flatten(1).any(dim=1).cpu()
            gone = lost if gone is None else gone & lost
    return gone
