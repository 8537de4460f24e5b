"""Which layers become one: a convolution or linear layer, the BatchNorm behind it, and the activation behind that."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from sparsekit.batches import call_model, describe, evaluating, expect_module, tensors_in
from sparsekit.errors import InputError, LayerError
from sparsekit.kernels.convolution import ACTIVATIONS as CONV_ACTIVATIONS
from sparsekit.nn.activation import activation_of
from sparsekit.nn.replace import module_at, replace_module

LINKS = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
"""The layers that may be in a chain, beside activations."""


@dataclass(frozen=True)
class Fusion:
    """Layers of a model, by name, that the first of them can do the work of.

    Args:
        layer: an ``nn.Conv2d`` or ``nn.Linear``.
        norm: the ``nn.BatchNorm2d`` that reads the result of a convolution, or None.
        activation: the module that reads the last one's result, or None.
        kind: of activation, one of :data:`~sparsekit.kernels.activation.ACTIVATIONS`.
    """

    layer: str
    norm: str | None
    activation: str | None
    kind: str


def find_fusions(model: nn.Module, example_inputs: Any) -> tuple[Fusion, ...]:
    """Find the chains of layers that are one in eval mode.

    They begin with an ``nn.Conv2d``, which an ``nn.BatchNorm2d`` may follow, or an ``nn.Linear``, and end with a module
    of ReLU, SiLU, or behind a linear layer GELU.

    The model runs once on the inputs, and what every operator reads is watched. A chain goes on as long as nothing but
    its next layer reads or keeps a result, before it is overwritten if it is; as long as a layer is called once, has
    one name, no hooks, no other class or ``forward`` than its own, and parameters that nothing else reads; and as long
    as a BatchNorm takes its running statistics and can be folded in the convolution's dtype. Activations called as
    functions are no layers, so a chain ends before them. What other inputs would reach is not seen, nor what code reads
    through a pointer outside of layers.

    Args:
        model: any module; left as it was.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords).

    Returns:
        a fusion per layer that a BatchNorm or an activation follows, in the order of ``named_modules``.

    Raises:
        LayerError: ``model`` is no module.
        InputError: the model refuses the inputs.
    """
    expect_module(model)
    names = dict(_links(model))
    watch = _Watch(names)
    with ExitStack() as stack:
        for module in model.modules():
            if not module._modules and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            if module in names:
                stack.callback(module.register_forward_hook(watch.after, always_call=True).remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(watch)
        try:
            output = call_model(model, example_inputs)
        except Exception as error:
            raise InputError(
                f"example_inputs: expected what {type(model).__name__} takes, got {describe(example_inputs)}: {error}"
            ) from error
    if any(map(watch.keeps, watch.results)):
        gc.collect()  # so that no cycle looks like somebody who keeps a result; the output does keep its own
    found = [_chain(watch, layer, names) for layer in names if type(layer) in (nn.Conv2d, nn.Linear)]
    del output
    return tuple(fusion for fusion in found if fusion.norm is not None or fusion.activation is not None)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution that does ``norm(conv(x))`` by the running statistics.

    With ``s = gamma / sqrt(var + eps)`` they are ``s * W`` and ``s * (b - mean) + beta``, computed in float64 and
    rounded once, to the dtype of the weight. A weight of 0 stays 0.

    Returns:
        weight ``(out, in / groups, height, width)`` and bias ``(out,)``.

    Raises:
        LayerError: the sizes differ, or ``norm`` has no running statistics.

    Source: Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2.
    """
    if norm.num_features != conv.out_channels:
        raise LayerError(
            f"folded: expected a BatchNorm of {conv.out_channels} channels, got one of {norm.num_features}"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise LayerError("folded: expected a BatchNorm with running statistics, got one without")
    weight = conv.weight.detach().double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.detach().double() - norm.running_mean
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = scale * shift
    if norm.bias is not None:
        bias = bias + norm.bias.detach()
    scaled = torch.where(weight == 0, weight, weight * scale[:, None, None, None])
    return scaled.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def apply_fusion(model: nn.Module, fusion: Fusion, new: nn.Module) -> nn.Module:
    """Put ``new``, which does all the work, in place of the first layer, and ``nn.Identity`` of what follows.

    Args:
        model: changed in place.
        fusion: what :func:`find_fusions` found.
        new: with the weight and bias of :func:`folded`, and the activation of ``fusion.kind`` behind it.

    Returns:
        the model.

    Raises:
        LayerError: the model has no layer of one of the names; it is not changed then.
    """
    gone = [name for name in (fusion.norm, fusion.activation) if name is not None]
    modes = [module_at(model, name).training for name in (fusion.layer, *gone)]
    root = replace_module(model, fusion.layer, new)
    for name, mode in zip(gone, modes[1:]):
        replace_module(root, name, nn.Identity().train(mode))
    return root


def _chain(watch: _Watch, layer: nn.Module, names: dict[nn.Module, str]) -> Fusion:
    """The longest chain that starts at ``layer``."""
    convolves, norm = isinstance(layer, nn.Conv2d), watch.next(layer)
    if not (convolves and type(norm) is nn.BatchNorm2d and _foldable(layer, norm)):
        norm = None
    last = watch.next(layer if norm is None else norm)
    kind = activation_of(last)
    if last is None or kind is None or (convolves and kind not in CONV_ACTIVATIONS):
        last, kind = None, "none"
    return Fusion(names[layer], None if norm is None else names[norm], None if last is None else names[last], kind)


def _foldable(conv: nn.Module, norm: nn.BatchNorm2d) -> bool:
    """Whether ``norm`` has running statistics, and what it is folded into is finite."""
    assert isinstance(conv, nn.Conv2d)
    if norm.running_mean is None or norm.running_var is None:
        return False
    return all(bool(part.isfinite().all()) for part in folded(conv, norm))


def _links(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the layers that may be in a chain, with their names."""
    registered = list(model.named_modules(remove_duplicate=False))
    times = Counter(module for _, module in registered)
    for name, module in registered:
        fits = type(module) in LINKS or activation_of(module) is not None
        if fits and times[module] == 1 and "forward" not in vars(module) and not _hooked(module):
            yield module, name


def _hooked(module: nn.Module) -> bool:
    """Whether somebody watches or changes what goes in or out."""
    forward, backward = module._forward_hooks, module._backward_hooks
    return bool(module._forward_pre_hooks or forward or module._backward_pre_hooks or backward)


@dataclass(eq=False)
class _Result:
    """What a layer returned, and the layers that read it, None for whatever else did; the memory is not kept."""

    storage: Any
    readers: set[nn.Module | None] = field(default_factory=set)


def _storage(tensor: Tensor) -> Any:
    """A weak reference to the memory of ``tensor``: equal for views, and as long as it lives no other memory's."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, for each of some layers, what it returns and who reads that.

    Args:
        links: the layers; no layer of them calls another.
    """

    def __init__(self, links: dict[nn.Module, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results: dict[nn.Module, list[_Result]] = {module: [] for module in links}
        self.latest: dict[Any, _Result] = {}
        self.owners = {id(part): module for module in links for part in (*module.parameters(), *module.buffers())}
        self.unfit: set[nn.Module] = set()
        self.running: nn.Module | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what an operator reads, and run it."""
        for tensor in tensors_in((args, kwargs)):
            self._read(tensor)
        return func(*args, **(kwargs or {}))

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a layer starts; one that is in no chain reads its inputs, by operators or without."""
        if module in self.results:
            self.running = module
            if module.training:
                self.unfit.add(module)
        else:
            for tensor in tensors_in((args, kwargs)):
                self._read(tensor)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a layer returned, or that it failed."""
        self.running = None
        if not isinstance(output, Tensor):
            self.unfit.add(module)
            return
        result = _Result(_storage(output))
        self.results[module].append(result)
        self.latest[result.storage] = result

    def next(self, module: nn.Module) -> nn.Module | None:
        """Return the one layer that read what ``module`` returned, where both can be in a chain."""
        if not self._fit(module):
            return None
        (result,) = self.results[module]
        if len(result.readers) != 1 or self.keeps(module):
            return None
        (reader,) = result.readers
        return reader if reader is not None and self._fit(reader) else None

    def keeps(self, module: nn.Module) -> bool:
        """Whether something that ``module`` returned and others read is still there, and not overwritten by them."""
        there = (r for r in self.results[module] if r.readers and self.latest[r.storage] is r)
        return any(not result.storage.expired() for result in there)

    def _fit(self, module: nn.Module) -> bool:
        return len(self.results[module]) == 1 and module not in self.unfit

    def _read(self, tensor: Tensor) -> None:
        owner = self.owners.get(id(tensor))
        if owner is not None and owner is not self.running:
            self.unfit |= {owner} if self.running is None else {owner, self.running}
        if tensor.layout is torch.strided:
            result = self.latest.get(_storage(tensor))
            if result is not None:
                result.readers.add(self.running)
