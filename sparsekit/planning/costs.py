"""What each layer costs on this machine: the measured counterpart of counting operations."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsekit.planning.planner import plan


def layer_costs(model: nn.Module, example_inputs: Any, *, progress: bool = False) -> dict[str, float]:
    """Measure the fastest dense way of every Linear and Conv2d, in seconds for all its calls, by parameter name.

    This is what ``CostWeighted(costs=...)`` takes to spend zeros where time is. Layers that are not measured (see
    :func:`~sparsekit.planning.plan`, such as those that the inputs never reach) are left out, and so are weights that
    are computed from other parameters. The cost of a tied weight is that of all layers that use it. Measurements are
    kept on disk and used again.

    Args:
        model: any module; nothing is changed.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).
        progress: show a progress bar.

    Raises:
        InputError: the model refuses the inputs.
        LayerError: the model is on the meta device, or a layer has no floating weight.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    costs: dict[str, float] = {}
    for layer in plan(model, example_inputs, progress=progress).layers:
        module = model.get_submodule(layer.name)
        assert isinstance(module, nn.Linear | nn.Conv2d)
        name = names.get(id(module.weight))
        if layer.dense is not None and name is not None:
            costs[name] = costs.get(name, 0.0) + layer.best_dense
    return costs
