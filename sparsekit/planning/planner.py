"""From a pruned model to a faster one: measure every layer, choose, replace."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsekit.batches import expect_module
from sparsekit.errors import LayerError, MaskError
from sparsekit.formats import format_named
from sparsekit.formats.base import FLOATING
from sparsekit.mask import Mask, read_mask
from sparsekit.nn import SparseLinear, replace_module
from sparsekit.planning.cache import Cache, Times
from sparsekit.planning.layer import LayerPlan, Way, decide
from sparsekit.planning.machine import describe_machine
from sparsekit.planning.measure import EAGER, Job, measure
from sparsekit.planning.observe import observe
from sparsekit.planning.table import render, table

MOST_EVICTED = 64 << 20
"""Bytes read between two measured calls, at most: beyond this the last-level cache holds nothing of the layer."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Masks = Mapping[str, Mask | Tensor]


@dataclass(frozen=True)
class Plan:
    """The choice made for every Linear of a model; printable and appliable.

    Args:
        model: the model that was planned for; a plan never changes it.
        layers: one entry per Linear, in the model's order.
        masks: the masks that were given, by parameter name.
    """

    model: nn.Module
    layers: tuple[LayerPlan, ...]
    masks: dict[str, Mask]

    def apply(self) -> nn.Module:
        """Return a copy of the model with the chosen layers replaced and the given masks applied."""
        # A copy made in inference mode could never be trained.
        with torch.inference_mode(False), torch.no_grad():
            fast = copy.deepcopy(self.model)
            parameters = dict(fast.named_parameters(remove_duplicate=False))
            for name, mask in self.masks.items():
                parameters[name].masked_fill_(~mask.keep, 0.0)
            for layer in self.layers:
                if layer.chosen is not None:
                    fast = _replace(fast, layer, layer.chosen)
        return fast

    def as_json(self) -> dict[str, Any]:
        """Return machine and layers as JSON types."""
        return {"machine": describe_machine(), "layers": [layer.as_json() for layer in self.layers]}

    def __str__(self) -> str:
        return render(self.layers)

    def __rich__(self) -> Table:
        return table(self.layers)


def plan(model: nn.Module, example_inputs: Any, masks: Masks | None = None, *, progress: bool = False) -> Plan:
    """Measure, for every Linear, the fastest dense way and each sparse kernel, and choose; changes nothing.

    Layers are measured on the batch sizes that ``example_inputs`` produce, with the number of threads that torch uses
    now. Measurements are kept on disk (``SPARSEKIT_CACHE``) and used again.

    Args:
        model: any module; it is run once, in eval mode.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).
        masks: by parameter name, as :func:`sparsekit.prune` returns them; a bool tensor is an unstructured mask.
            Layers without one, and all where None, have their zeros read.
        progress: show a progress bar.

    Raises:
        InputError: the model refuses the inputs.
        LayerError: the model is on the meta device, a Linear has no floating weight, or a mask names no parameter.
        MaskError: a mask does not belong to its parameter.
    """
    _check_model(model)
    given = _check_masks(model, masks or {})
    calls = observe(model, example_inputs)
    others = min(MOST_EVICTED, sum(p.numel() * p.element_size() for p in model.parameters()))
    cache = Cache()
    rows = track(calls.items(), "measuring layers", transient=True, disable=not progress)
    layers = tuple(_plan_layer(model, name, given, counts, (others, cache)) for name, counts in rows)
    cache.save()
    return Plan(model, layers, given)


def compile(model: nn.Module, example_inputs: Any, masks: Masks | None = None, *, progress: bool = False) -> nn.Module:
    """Return a copy of ``model`` that runs faster where a sparse kernel, or a better dense one, pays.

    The same as ``plan(model, example_inputs, masks).apply()``; see :func:`plan`.
    """
    return plan(model, example_inputs, masks, progress=progress).apply()


def _plan_layer(
    model: nn.Module, name: str, masks: Mapping[str, Mask], calls: Counter[int], means: tuple[int, Cache]
) -> LayerPlan:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach()
    mask = masks.get(f"{name}.weight".lstrip(".")) or read_mask(weight)
    why_not = _why_not(linear)
    if why_not:
        return LayerPlan(name, mask, reason=why_not)
    counts = {batch: count for batch, count in sorted(calls.items()) if batch > 0}
    if not counts:
        how = "call it with empty batches only" if calls else "never call it"
        return LayerPlan(name, mask, reason=f"the example inputs {how}")
    others, cache = means
    bias = None if linear.bias is None else linear.bias.detach()
    times = {batch: _times(Job(weight, mask, bias, batch, others), cache) for batch in counts}
    return decide(name, mask, counts, times)


def _why_not(linear: nn.Linear) -> str:
    """Why a layer cannot be replaced, whatever it would gain, or ""."""
    if type(linear).forward is not nn.Linear.forward or "forward" in vars(linear):
        return f"{type(linear).__name__} has a forward of its own"
    if any(vars(linear)[hooks] for hooks in HOOKS):
        return "it has hooks, which a packed layer would lose"
    if not linear.weight.numel():
        return "it has no weights"
    if linear.weight.device.type != "cpu":
        return f"layers on {linear.weight.device.type} are not measured yet"
    return ""


def _times(job: Job, cache: Cache) -> Times:
    found = cache.get(job.key)
    if found is None or EAGER not in found:
        found = measure(job)
        cache.put(job.key, found)
    return found


def _replace(model: nn.Module, layer: LayerPlan, way: Way) -> nn.Module:
    linear = model.get_submodule(layer.name)
    assert isinstance(linear, nn.Linear)
    packed = format_named(way.format).pack(linear.weight.detach(), layer.mask)
    sparse = SparseLinear.from_packed(packed, linear.bias, kernel_by_batch=way.kernels).train(linear.training)
    sparse.layer_name = layer.name
    return replace_module(model, layer.name, sparse)


def _check_model(model: nn.Module) -> None:
    expect_module(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise LayerError(f"{name}: expected a tensor with data, got a lazy one; call the model once before")
        if tensor.is_meta:
            raise LayerError(f"{name}: expected a tensor with data, got one on the meta device")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.dtype not in FLOATING:
            raise LayerError(f"{name}.weight: expected a floating weight, got {module.weight.dtype}")


def _check_masks(model: nn.Module, masks: Masks) -> dict[str, Mask]:
    """The masks by every name of their parameters: a tied weight has one mask, whichever name it was given under."""
    if not isinstance(masks, Mapping):
        raise MaskError(f"masks: expected masks by parameter name, got a {type(masks).__name__}")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    by_parameter: dict[nn.Parameter, Mask] = {}
    for name, mask in masks.items():
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise LayerError(f"masks: expected names of parameters, got {name}{hint}")
        checked = _as_mask(mask, name)
        checked.check(parameters[name], name)
        other = by_parameter.setdefault(parameters[name], checked)
        if not torch.equal(other.keep, checked.keep):
            raise MaskError(f"{name}: expected one mask for a tied weight, got two that differ")
    return {name: by_parameter[p] for name, p in parameters.items() if p in by_parameter}


def _as_mask(mask: Mask | Tensor, name: str) -> Mask:
    try:
        return mask if isinstance(mask, Mask) else Mask(mask)
    except MaskError as error:
        raise MaskError(f"{name}: {error}") from error
