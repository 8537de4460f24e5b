"""From a pruned model to a faster one: measure every layer, choose, replace."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsekit.batches import call_model, evaluating, expect_module
from sparsekit.errors import InputError, LayerError, MaskError
from sparsekit.formats import format_named
from sparsekit.formats.base import FLOATING
from sparsekit.kernels.clock import clock_of
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask, read_mask
from sparsekit.nn.activation import activation_of
from sparsekit.planning.cache import Cache, Times
from sparsekit.planning.dtypes import OtherDtype, other_dtypes
from sparsekit.planning.fusion import find_fusions
from sparsekit.planning.jobs import AS_IS, EAGER, MEMORY_FORMATS, Call, Job, Orders
from sparsekit.planning.layer import GAIN, LayerPlan, decide
from sparsekit.planning.machine import describe_machine
from sparsekit.planning.measure import measure
from sparsekit.planning.observe import Key, is_empty, observe
from sparsekit.planning.sites import ConvSite, LinearSite, Site
from sparsekit.planning.table import render, table

MOST_EVICTED = 64 << 20
"""Bytes read between two measured calls, at most: beyond this the last-level cache holds nothing of the layer."""

BUDGET_S = 0.5
"""Seconds to time a whole model in all orders of its images; at least three runs each."""

KEPT_IN: dict[str | None, Orders] = {
    "contiguous": "contiguous",
    "channels_last": "channels_last",
    "mixed": "channels_last",
}
"""The order of the weights of convolutions that were measured and not replaced, which their results follow."""

Masks = Mapping[str, Mask | Tensor]


@dataclass(frozen=True)
class Plan:
    """The choice made for every Linear and Conv2d of a model; printable and appliable.

    Args:
        model: the model that was planned for; a plan never changes it.
        layers: one entry per layer, in the model's order.
        masks: the masks that were given, by parameter name.
        sites: the layers, in the same order.
        order: in which images lie in memory: "contiguous", "channels_last", or "mixed", where sparse convolutions leave
            them contiguous and dense ones channels_last. It is the one in which the whole model was the fastest, or
            :data:`~sparsekit.planning.jobs.AS_IS` where that was the model as it is, and then no layer is replaced.
            None for a model without convolutions.
        seconds: what one run of the whole model took, by order; empty for a model without convolutions.
        others: dtypes in which the layers would gain more; a plan changes no dtype.
    """

    model: nn.Module
    layers: tuple[LayerPlan, ...]
    masks: dict[str, Mask]
    sites: tuple[Site, ...] = ()
    order: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    others: tuple[OtherDtype, ...] = ()

    def apply(self) -> nn.Module:
        """Return a copy of the model with the chosen layers replaced and the given masks applied.

        A BatchNorm and an activation that a convolution takes over leave an ``nn.Identity``: the copy is for inference,
        and BatchNorms that are folded do not learn.
        """
        # A copy made in inference mode could never be trained.
        with torch.inference_mode(False), torch.no_grad():
            fast = copy.deepcopy(self.model)
            parameters = dict(fast.named_parameters(remove_duplicate=False))
            for name, mask in self.masks.items():
                parameters[name].masked_fill_(~mask.keep, 0.0)
            for site, layer in zip(self.sites, self.layers):
                if layer.chosen is not None:
                    format = format_named(layer.chosen.format)
                    fast = site.put(fast, format, layer.mask, layer.chosen.kernels, layer.order)
                elif self.order in KEPT_IN and layer.dense is not None:
                    order = MEMORY_FORMATS[KEPT_IN[self.order]]
                    fast.get_submodule(site.name).to(memory_format=order)  # type: ignore[call-overload]
        return fast

    def as_json(self) -> dict[str, Any]:
        """Return machine and layers as JSON types."""
        return {
            "machine": describe_machine(),
            "order": self.order,
            "network_us": {order: seconds * 1e6 for order, seconds in self.seconds.items()},
            "layers": [layer.as_json() for layer in self.layers],
            "other_dtypes": [other.as_json() for other in self.others],
        }

    def __str__(self) -> str:
        return render(self.layers, self.seconds, self.others)

    def __rich__(self) -> Table:
        return table(self.layers, self.seconds, self.others)


def plan(
    model: nn.Module,
    example_inputs: Any,
    masks: Masks | None = None,
    *,
    quantize: Literal["int8"] | None = None,
    progress: bool = False,
) -> Plan:
    """Measure, for every Linear and Conv2d, the fastest dense way and each sparse kernel, and choose; changes nothing.

    A BatchNorm2d and a ReLU or SiLU module whose input is all that a convolution returns are fused with it, by their
    eval mode, and so are ReLU, SiLU and GELU modules with a linear layer. Layers are measured on the sizes that
    ``example_inputs`` produce, with the number of threads that torch uses now. Measurements are kept on disk
    (``SPARSEKIT_CACHE``) and used again. Of a model with convolutions the whole is timed as well, as it is and with its
    images in each order in memory: changes of order between layers cost time. The plan says where the layers would
    gain in another dtype.

    Args:
        model: any module; it is run in eval mode, a few times where it has convolutions.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).
        masks: by parameter name, as :func:`sparsekit.prune` returns them; a bool tensor is an unstructured mask.
            Layers without one, and all where None, have their zeros read.
        quantize: "int8" lets linear layers round weights, and inputs token by token, to 8 bits where that is the
            fastest, dense ones included; None = exact ways only.
        progress: show a progress bar.

    Raises:
        InputError: the model refuses the inputs, or ``quantize`` is unknown.
        LayerError: the model is on the meta device, a layer has no floating weight, or a mask names no parameter.
        MaskError: a mask does not belong to its parameter.
    """
    if quantize not in (None, "int8"):
        raise InputError(f"quantize: expected 'int8' or None, got {quantize!r}")
    _check_model(model)
    given = _check_masks(model, masks or {})
    calls = observe(model, example_inputs)
    sites = _sites(model, example_inputs, calls, quantize)
    others = min(MOST_EVICTED, sum(p.numel() * p.element_size() for p in model.parameters()))
    orders: tuple[Orders, ...] = ("contiguous", "channels_last")
    convolves = any(isinstance(site, ConvSite) for site in sites)
    cache, found = Cache(), dict[str, list[LayerPlan]]()
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("measuring layers", total=len(sites) * (1 + convolves))
        for order in orders[: 1 + convolves]:
            found[order] = []
            for site in sites:
                found[order].append(_plan_layer(site, given, calls[site.name], order, (others, cache)))
                bar.advance(task)
    cache.save()
    if convolves:
        found["mixed"] = [
            one if one.sparse else other for one, other in zip(found["contiguous"], found["channels_last"])
        ]
        best = _fastest_plan([Plan(model, tuple(found[o]), given, tuple(sites), o) for o in found], example_inputs)
    else:
        best = Plan(model, tuple(found["contiguous"]), given, tuple(sites))
    best = replace(best, others=other_dtypes(sites, best.layers, others, cache))
    cache.save()
    return best


def _fastest_plan(plans: Sequence[Plan], example_inputs: Any) -> Plan:
    """Run the model as it is and as each of the plans makes it; return the fastest plan.

    That is one that replaces nothing where no other runs, or none gains by :data:`~sparsekit.planning.layer.GAIN`.
    """
    models = {AS_IS: plans[0].model, **{str(p.order): p.apply() for p in plans if any(x.chosen for x in p.layers)}}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        # not in inference mode: what the model itself keeps of a call could not be trained with later
        calls = {order: partial(call_model, model, example_inputs) for order, model in models.items()}
        errors = {order: error for order in models if order != AS_IS and (error := _error(calls[order]))}
        # as a user calls it: what Python takes to start the work counts
        clock = clock_of(plans[0].sites[0].layer.weight.device, graphs=False)
        times = fastest({o: call for o, call in calls.items() if o not in errors}, BUDGET_S, clock=clock)
    best = next(iter(times))
    if times[best] * GAIN > times[AS_IS]:
        reason = f"the whole model gains {times[AS_IS] / times[best]:.2f}x, {GAIN:g}x is needed"
        if len(times) == 1 and errors:
            reason = f"the model does not run with layers replaced: {next(iter(errors.values()))}"
        layers = tuple(replace(x, chosen=None, reason=x.reason or reason) for x in plans[0].layers)
        return replace(plans[0], layers=layers, order=AS_IS, seconds=times)
    return replace(next(p for p in plans if p.order == best), seconds=times)


def _error(call: Call) -> str:
    """What a model says that cannot run as planned, or "".

    Some view a result in one order of images only, and some read what only a dense layer has.
    """
    try:
        call()
    except Exception as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def compile(
    model: nn.Module,
    example_inputs: Any,
    masks: Masks | None = None,
    *,
    quantize: Literal["int8"] | None = None,
    progress: bool = False,
) -> nn.Module:
    """Return a copy of ``model`` that runs faster where a sparse kernel, or a better dense one, pays.

    The same as ``plan(model, example_inputs, masks, quantize=quantize).apply()``; see :func:`plan`.
    """
    return plan(model, example_inputs, masks, quantize=quantize, progress=progress).apply()


def _sites(model: nn.Module, example_inputs: Any, names: Iterable[str], quantize: str | None) -> list[Site]:
    follows = any(isinstance(module, nn.BatchNorm2d) or activation_of(module) for module in model.modules())
    fusions = {fusion.layer: fusion for fusion in find_fusions(model, example_inputs)} if follows else {}
    kinds = {name: ConvSite if isinstance(model.get_submodule(name), nn.Conv2d) else LinearSite for name in names}
    return [kind(model, name, fusions.get(name), quantize) for name, kind in kinds.items()]


def _plan_layer(site: Site, masks: Masks, calls: Counter[Key], order: Orders, means: tuple[int, Cache]) -> LayerPlan:
    mask = masks.get(f"{site.name}.weight".lstrip(".")) or read_mask(site.layer.weight.detach())
    assert isinstance(mask, Mask)
    why_not = site.why_not(tuple(calls))
    if why_not:
        return LayerPlan(site.name, mask, reason=why_not)
    counts = {key: count for key, count in sorted(calls.items()) if not is_empty(key)}
    if not counts:
        how = "call it with empty batches only" if calls else "never call it"
        return LayerPlan(site.name, mask, reason=f"the example inputs {how}")
    others, cache = means
    times = {key: _times(site.job(mask, key, others, order), cache) for key in counts}
    return replace(decide(site.name, mask, counts, times), fused=site.fused, order=order)


def _times(job: Job, cache: Cache) -> Times:
    found = cache.get(job.key)
    if found is None or not found.keys() & {EAGER, AS_IS}:
        found = measure(job)
        cache.put(job.key, found)
    return found


def _check_model(model: nn.Module) -> None:
    expect_module(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise LayerError(f"{name}: expected a tensor with data, got a lazy one; call the model once before")
        if tensor.is_meta:
            raise LayerError(f"{name}: expected a tensor with data, got one on the meta device")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.dtype not in FLOATING:
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
