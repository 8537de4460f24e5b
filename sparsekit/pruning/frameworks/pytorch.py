"""The strategies of ``torch.nn.utils.prune``, and its masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_pruning

from sparsekit.batches import expect_module
from sparsekit.errors import LayerError, MaskError, PruningError
from sparsekit.mask import Mask, read_mask
from sparsekit.patterns import Channel, Filter, Pattern
from sparsekit.pruning.frameworks.writing import earlier, expect_strategy, zeroed
from sparsekit.pruning.targets import Choice, find_targets


@dataclass(frozen=True)
class _Rule:
    """What a strategy is told: how much goes, of which dimension, by which norm, and where chance comes from."""

    amount: float
    dim: int
    n: float
    generator: torch.Generator

    def count(self, units: int) -> int:
        """How many of ``units`` go: an integer as it is, a fraction rounded half to even."""
        gone = int(self.amount) if isinstance(self.amount, Integral) else round(self.amount * units)
        if gone > units:
            raise PruningError(f"amount: expected at most the {units} units that are left, got {gone}")
        return gone


Strategy = Callable[[Tensor, Tensor, _Rule], Tensor]


def torch_prune(  # noqa: PLR0913 - the arguments of the strategies together
    model: nn.Module,
    strategy: str,
    amount: float,
    *,
    dim: int = 0,
    n: float = 2,
    masks: Mapping[str, Mask] | None = None,
    layers: Choice = None,
    generator: torch.Generator | None = None,
) -> dict[str, Mask]:
    """Prune weights in place as ``torch.nn.utils.prune`` does, and return the masks by parameter name.

    Where sparsekit removes ``floor(sparsity * units)``, torch rounds half to even. Weights of equal size go in the
    order of ``torch.topk``. No hook and no second copy of the weight is left behind.

    Args:
        model: any module without torch's own pruning on it; see :func:`read_torch` for one with.
        strategy: ``random_unstructured``, ``l1_unstructured``, ``random_structured``, ``ln_structured`` (each layer
            by itself) or ``global_unstructured`` (one ranking by magnitude).
        amount: a fraction in [0, 1], of what an earlier call has left; or an integer, that many units.
        dim: which dimension's slices a structured strategy removes: 0 the outputs, 1 the inputs.
        n: of the norm that ``ln_structured`` ranks by.
        masks: what an earlier call returned. The amount then applies to the units that are left.
        layers: as for :func:`sparsekit.prune`.
        generator: where random strategies draw from, layer by layer; None seeds one with 0.
            ``torch.default_generator`` draws what torch's own functions would.

    Raises:
        PruningError: the strategy is unknown, or the amount is out of range.
        LayerError: as :func:`sparsekit.prune`.
        MaskError: ``masks`` are not those of this model.

    Source: PyTorch 2.13, ``torch/nn/utils/prune.py``.
    """
    expect_strategy(strategy, (*STRATEGIES, "global_unstructured"))
    whole = isinstance(amount, Integral)
    if not isinstance(amount, Real) or amount < 0 or not (whole or amount <= 1):
        raise PruningError(f"amount: expected a fraction in [0, 1] or a count of units, got {amount!r}")
    rule = _Rule(amount, dim, n, torch.Generator().manual_seed(0) if generator is None else generator)
    targets = find_targets(model, layers)
    before = [earlier(masks, target.name, target.weight) for target in targets]
    weights = [target.weight.detach() for target in targets]
    if strategy == "global_unstructured":
        flat = _smallest_go(
            torch.cat([w.reshape(-1) for w in weights]), torch.cat([b.reshape(-1) for b in before]), rule
        )
        parts = torch.split(flat, [weight.numel() for weight in weights])
        keeps = [part.reshape(weight.shape) for part, weight in zip(parts, weights)]
    else:
        keeps = [STRATEGIES[strategy](weight, mask, rule) for weight, mask in zip(weights, before)]
    wanted: Pattern | None = {0: Filter(), 1: Channel()}.get(dim) if strategy.endswith("_structured") else None
    return zeroed({target.name: (target.weight, keep) for target, keep in zip(targets, keeps)}, wanted)


def _smallest_go(weight: Tensor, before: Tensor, rule: _Rule) -> Tensor:
    """Of the weights that are left, the smallest go."""
    left = weight[before].abs()
    return _without(before, torch.topk(left, rule.count(left.numel()), largest=False).indices)


def _random_go(weight: Tensor, before: Tensor, rule: _Rule) -> Tensor:
    """Of the weights that are left, those with the highest draws go."""
    left = int(before.sum())
    gone = rule.count(left)
    if not gone:
        return before.clone()
    draws = torch.rand(left, generator=rule.generator, dtype=weight.dtype, device=rule.generator.device)
    return _without(before, torch.topk(draws.to(weight.device), gone).indices)


def _without(before: Tensor, gone: Tensor) -> Tensor:
    """``before`` less those of its True entries whose ranks are ``gone``."""
    keep = before.clone()
    left = torch.ones(int(before.sum()), dtype=torch.bool, device=before.device)
    left[gone] = False
    keep[before] = left
    return keep


def _low_norms_go(weight: Tensor, before: Tensor, rule: _Rule) -> Tensor:
    """Of the slices that are left, those with the lowest norms go."""
    axis, alive = _slices(before, rule.dim)
    left = weight.movedim(axis, 0)[alive].movedim(0, axis)
    others = [d for d in range(weight.dim()) if d != axis]
    norms = torch.norm(left, p=rule.n, dim=others)
    stay = torch.topk(norms, len(norms) - rule.count(len(norms))).indices
    return _slices_stay(before, axis, alive, stay)


def _random_slices_go(weight: Tensor, before: Tensor, rule: _Rule) -> Tensor:
    """Of the slices that are left, those with the lowest draws go."""
    axis, alive = _slices(before, rule.dim)
    left = int(alive.sum())
    gone = rule.count(left)
    if not gone:
        return before.clone()
    draws = torch.rand(left, generator=rule.generator, device=rule.generator.device).cpu()
    stay = (draws > draws.kthvalue(gone).values).nonzero().reshape(-1)
    return _slices_stay(before, axis, alive, stay)


def _slices(before: Tensor, dim: int) -> tuple[int, Tensor]:
    """The dimension counted from the front, and which of its slices have anything left."""
    if not -before.dim() <= dim < before.dim():
        raise PruningError(f"dim: expected a dimension of a weight of shape {tuple(before.shape)}, got {dim}")
    axis = dim % before.dim()
    return axis, before.movedim(axis, 0).flatten(1).any(dim=1)


def _slices_stay(before: Tensor, axis: int, alive: Tensor, stay: Tensor) -> Tensor:
    """``before`` less all slices but those whose ranks among the ``alive`` ones are in ``stay``."""
    kept = torch.zeros_like(alive)
    kept[alive.nonzero().reshape(-1)[stay.to(alive.device)]] = True
    return before & kept.reshape([-1 if d == axis else 1 for d in range(before.dim())])


STRATEGIES: dict[str, Strategy] = {
    "random_unstructured": _random_go,
    "l1_unstructured": _smallest_go,
    "random_structured": _random_slices_go,
    "ln_structured": _low_norms_go,
}


def read_torch(model: nn.Module, *, remove: bool = False) -> dict[str, Mask]:
    """Read the masks that ``torch.nn.utils.prune`` has put on ``model``, by parameter name.

    Each mask gets the most structured pattern that explains it.

    Args:
        model: any module; unchanged unless ``remove``.
        remove: also bake the masks into the weights, so that the model has plain parameters that
            :func:`sparsekit.plan` takes, and its state dict the old keys.

    Raises:
        LayerError: nothing in the model is pruned by torch.
        MaskError: a mask has other values than 0 and 1.
    """
    expect_module(model)
    found: list[tuple[str, nn.Module, str, Any]] = []
    for path, module in model.named_modules():
        for buffer, value in module.named_buffers(recurse=False):
            name = re.sub("_mask$", "", buffer)
            if name != buffer and isinstance(getattr(module, f"{name}_orig", None), nn.Parameter):
                found.append((f"{path}.{name}" if path else name, module, name, value))
    if not found:
        raise LayerError("expected a model pruned by torch.nn.utils.prune, got one without its mask buffers")
    for parameter, _, _, value in found:
        if bool(((value != 0) & (value != 1)).any()):
            raise MaskError(f"{parameter}: expected a mask of 0 and 1, got values from {value.min()} to {value.max()}")
    masks = {parameter: read_mask(value.float()) for parameter, _, _, value in found}
    if remove:
        for _, module, name, _ in found:
            torch_pruning.remove(module, name)  # type: ignore[no-untyped-call]
    return masks
