"""How much flows through each weight when nothing can cancel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from typing_extensions import Self

from sparsekit.batches import describe, evaluating, tensors_in
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView


@dataclass(frozen=True, eq=False)
class SynapticFlow(ModelStatistic):
    """``dR/d|w|``, ``weight.shape``, float64, where ``R`` is the sum of the outputs of the model made positive.

    Every parameter and the running averages of BatchNorm become absolute values, and everything is float64, in copies:
    the model itself is not written to. Of the first batch only the shapes matter: floats become ones. Integers and
    booleans (token ids, masks) stay what they are, and the table of an embedding is made positive like any parameter.
    BatchNorm is in eval mode; a norm without running averages, which would subtract the mean of what flows and leave
    nothing, only scales and shifts, like a fresh BatchNorm.
    """

    needs_loss: ClassVar[bool] = False

    gradient: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run the first batch forward and backward once; see :meth:`ModelStatistic.collect`."""
        if torch.is_inference_mode_enabled():
            raise CalibrationError("expected a model with gradients, got one under torch.inference_mode()")
        state, leaves = _absolute(view)
        with evaluating(view.model):
            args, kwargs = _first_call(view)
            with torch.enable_grad():
                flow = _flow(view.model, state, args, kwargs)
        if not bool(torch.isfinite(flow)):
            raise CalibrationError(f"model: expected a finite flow for an input of ones, got {flow.item()}")
        found = torch.autograd.grad(flow, leaves, allow_unused=True) if flow.requires_grad else [None] * len(leaves)
        for target, gradient in zip(view.targets, found):
            if gradient is None:
                raise CalibrationError(f"{target.name}: expected outputs that depend on it, got some that do not")
        return {target.name: cls(gradient) for target, gradient in zip(view.targets, found) if gradient is not None}


def _absolute(view: ModelView) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The positive copy of all parameters and buffers by name, and what stands in it for each target's weight."""
    copies: dict[int, Tensor] = {}
    for parameter in view.model.parameters():
        copies[id(parameter)] = _double(parameter.detach()).abs()
    leaves = [copies[id(target.weight)].requires_grad_() for target in view.targets]
    named = view.model.named_parameters(remove_duplicate=False)
    state = {name: copies[id(parameter)] for name, parameter in named}
    for prefix, module in view.model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            value = _double(buffer.detach())
            state[name] = value.abs() if isinstance(module, _BatchNorm) else value
    return state, leaves


def _first_call(view: ModelView) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with for the first batch; where there is a loss function, it knows."""
    batch = view.batches[0]
    if view.loss_fn is None:
        if isinstance(batch, Mapping):
            return (), dict(batch)
        return (tuple(batch), {}) if isinstance(batch, (tuple, list)) else ((batch,), {})
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = view.model.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    try:
        view.run(batch)
    except Exception as error:
        raise CalibrationError(
            f"batches[0]: expected what loss_fn(model, batch) takes, got {describe(batch)}, and it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        handle.remove()
    if not calls:
        raise CalibrationError("loss_fn: expected it to call the model, got one that does not")
    return calls[0]


def _flow(model: nn.Module, state: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The sum of all outputs of ``model`` with the parameters and buffers ``state`` and ones as its inputs."""
    try:
        with _only_scaling(model):
            returned = functional_call(model, state, _ones(args), _ones(kwargs))
    except Exception as error:
        raise CalibrationError(
            f"batches[0]: expected a model that takes ones in float64 for {describe(args or kwargs)}, and it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    outputs = [value.sum() for value in tensors_in(returned) if value.is_floating_point()]
    if not outputs:
        raise CalibrationError(f"expected a model that returns a tensor of floats, got {describe(returned)}")
    return torch.stack(outputs).sum()


@contextmanager
def _only_scaling(model: nn.Module) -> Iterator[None]:
    """Norms that have no running averages only multiply by their weight and add their bias."""

    def hook(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = args
        first = x.dim() - 1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        scaled = x if weight is None else x * _aligned(weight, x, first)
        return scaled if bias is None else scaled + _aligned(bias, x, first)

    with ExitStack() as stack:
        for module in model.modules():
            averages = getattr(module, "running_mean", None) is not None
            normed = isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _InstanceNorm, _BatchNorm))
            if normed and not averages:
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _aligned(value: Tensor, x: Tensor, dimension: int) -> Tensor:
    """``value``, one number per entry of ``dimension`` of ``x`` (or several trailing dimensions), to broadcast."""
    return value if value.dim() > 1 else value.reshape(-1, *(1,) * (x.dim() - 1 - dimension))


def _double(value: Tensor) -> Tensor:
    """A copy of ``value``, in float64 where it is a tensor of floats."""
    return value.to(torch.float64, copy=True) if value.is_floating_point() else value.clone()


def _ones(value: Any) -> Any:
    """``value`` with ones in float64 for each tensor of floats in it."""
    if isinstance(value, Tensor):
        return torch.ones_like(value, dtype=torch.float64) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _ones(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_ones(item) for item in value]) if not hasattr(value, "_fields") else value
    return value
