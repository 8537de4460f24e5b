"""What layers cost, and how a budget of cost stays reachable whatever an agent does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.pruning.searches.base import ModelProblem
from sparsekit.pruning.searches.trials import run_once

SLACK = 1e-9
"""Of a unit: what rounding errors of sums of costs may amount to."""


@dataclass(frozen=True)
class LayerShape:
    """What a layer looks like to an agent: channels, input and kernel sizes, and multiplications per batch."""

    outputs: int
    inputs: int
    height: int
    width: int
    stride: int
    kernel: int
    products: float


def layer_shapes(problem: ModelProblem) -> dict[str, LayerShape]:
    """Watch the first batch go through the model; by parameter name, tied layers added up.

    Raises:
        CalibrationError: the model refuses the batch, or a layer is not reached.
    """
    places: dict[str, tuple[int, int]] = {}
    products: dict[str, float] = {}
    handles = []
    for target in problem.targets:

        def see(layer: nn.Module, args: Any, kwargs: Any, output: Tensor, target: Any = target) -> None:
            given = args[0] if args else kwargs["input"]
            places[target.name] = (given.shape[-2], given.shape[-1]) if isinstance(layer, nn.Conv2d) else (1, 1)
            rows = output.numel() / max(1, target.weight.shape[0])
            products[target.name] = products.get(target.name, 0.0) + rows * target.weight.numel()

        handles += [layer.register_forward_hook(see, with_kwargs=True) for layer in target.layers]
    try:
        run_once(problem)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for target in problem.targets:
        if target.name not in places:
            raise CalibrationError(f"{target.name}: expected a first batch that reaches it, got one that does not")
        layer = target.layers[0]
        stride, kernel = (layer.stride[0], layer.kernel_size[0]) if isinstance(layer, nn.Conv2d) else (1, 1)
        outputs, inputs = target.weight.shape[:2]
        high, wide = places[target.name]
        found[target.name] = LayerShape(outputs, inputs, high, wide, int(stride), kernel, products[target.name])
    return found


def layer_costs(
    problem: ModelProblem, shapes: Mapping[str, LayerShape], costs: Mapping[str, float] | None
) -> dict[str, float]:
    """The cost of each layer, the user's or else its multiplications.

    Raises:
        PruningError: a layer has no cost, or none above 0.
    """
    if costs is None:
        return {name: shape.products for name, shape in shapes.items()}
    for target in problem.targets:
        cost = costs.get(target.name)
        if cost is None or not (math.isfinite(cost) and cost > 0):
            raise PruningError(f"costs: expected a positive number for {target.name}, got {cost}")
    return {target.name: float(costs[target.name]) for target in problem.targets}


@dataclass(frozen=True)
class Wall:
    """Clips each layer's count of kept units so that the budget stays reachable.

    Args:
        units: per layer.
        unit_costs: of one unit of each layer.
        least: units that each layer keeps at the least.
        budget: what all kept units may cost together.
        spends: whether the budget is also used up, as far as whole units go.
    """

    units: Sequence[int]
    unit_costs: Sequence[float]
    least: Sequence[int]
    budget: float
    spends: bool = True

    def bounds(self, layer: int, spent: float) -> tuple[int, int]:
        """Fewest and most units that ``layer`` may keep after ``spent`` on those before it.

        At most ``(budget - spent - what later layers cost at the least) / unit cost``; where the budget is to be used
        up, at least the same with what later layers cost when they are dense.
        """
        later = range(layer + 1, len(self.units))
        cost = self.unit_costs[layer]
        reserved = sum(self.least[i] * self.unit_costs[i] for i in later)
        dense = sum(self.units[i] * self.unit_costs[i] for i in later)
        most = self._whole((self.budget - spent - reserved) / cost, layer)
        fewest = self._whole((self.budget - spent - dense) / cost, layer) if self.spends else self.least[layer]
        return min(fewest, most), most

    def kept(self, layer: int, spent: float, action: float) -> int:
        """The units that ``layer`` keeps when the agent wants to keep the share ``action`` of them."""
        fewest, most = self.bounds(layer, spent)
        return min(max(round(action * self.units[layer]), fewest), most)

    def _whole(self, count: float, layer: int) -> int:
        """``count`` in whole units that the layer can have."""
        if count >= self.units[layer]:
            return self.units[layer]
        return max(self.least[layer], math.floor(count + SLACK))


def walled(units: Sequence[int], unit_costs: Sequence[float], preserve: float, lower: float | None) -> Wall:
    """The wall that keeps the share ``preserve`` of the cost.

    Raises:
        PruningError: even the least of every layer costs more.
    """
    share = min(0.2, 0.5 * preserve) if lower is None else lower
    least = [max(1, math.ceil(share * count - SLACK)) for count in units]
    total = sum(count * cost for count, cost in zip(units, unit_costs))
    floor = sum(count * cost for count, cost in zip(least, unit_costs))
    if floor > preserve * total * (1 + SLACK):
        raise PruningError(
            f"sparsity: expected at most {1 - floor / total:.4f}, since every layer keeps {share:g} of its units and "
            f"at least one, got {1 - preserve:.4f}"
        )
    return Wall(units, unit_costs, least, preserve * total)


def least_squares(weight: Tensor, keep: Tensor, gram: Tensor) -> Tensor:
    """The weight on ``keep`` whose outputs are closest to those of ``weight``, of the least norm.

    Args:
        weight: ``(out, in, ...)``.
        keep: bool, of the same shape.
        gram: sums of ``x x^T``, ``(groups, columns, columns)``.
    """
    groups, columns = gram.shape[0], gram.shape[1]
    dense = weight.reshape(groups, -1, columns).double()
    kept = keep.reshape(groups, -1, columns)
    solved = torch.zeros_like(dense)
    for group in range(groups):
        supports, rows = torch.unique(kept[group], dim=0, return_inverse=True)
        for number, support in enumerate(supports):
            chosen = rows == number
            seen = gram[group].double()[support]
            values = torch.linalg.pinv(seen[:, support], hermitian=True) @ (seen @ dense[group][chosen].T)
            part = torch.zeros(int(chosen.sum()), columns, dtype=torch.float64, device=weight.device)
            part[:, support] = values.T
            solved[group, chosen] = part
    return solved.reshape(weight.shape).to(weight.dtype)
