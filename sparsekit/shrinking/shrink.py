"""Make a model smaller by what its masks have emptied."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from sparsekit.batches import call_model, evaluating, expect_module
from sparsekit.errors import LayerError, MaskError, PruningError
from sparsekit.mask import Mask
from sparsekit.pruning.dependencies import follow, outputs_of
from sparsekit.shrinking.choice import Choice
from sparsekit.shrinking.constants import read_constants
from sparsekit.shrinking.graph import Side, trace
from sparsekit.shrinking.surgery import cut, fold


def shrink(model: nn.Module, masks: Mapping[str, Mask | Tensor] | None, example_inputs: Any) -> nn.Module:
    """Return a smaller dense model that computes what ``model`` computes with its masks.

    A channel goes where every layer that reads it ignores it (its weights are zero), or reads the same number whatever
    the model is given and can add that to its bias: an output without weights is its bias, and what BatchNorm and
    activations make of it. Beside a border of zeros such a number is not the same everywhere; a convolution that pads
    gives the weights to one constant channel, which stays for all. Channels that are added, concatenated, multiplied,
    or passed on by a depthwise convolution go together or not at all, heads go whole, and each group of a convolution
    loses as many as the others or goes whole. What the model returns keeps its shape. A layer never loses its last
    channel. Zeros that empty no channel stay zeros. A layer without a bias gets one where it takes a number over. Where
    the module around a projection keeps its number of heads in an attribute with ``head`` in its name, that is
    corrected.

    Args:
        model: any module; left as it was, and in eval mode the equal of the result.
        masks: by parameter name, as :func:`~sparsekit.pruning.prune` returns them, or bool tensors (True = stays);
            None where the zeros are in the weights already.
        example_inputs: what the model takes: a tensor, a tuple (positional) or a mapping (keywords). The result is
            compared with the masked model on them.

    Raises:
        LayerError: a name is unknown, or a parameter has no data.
        MaskError: a mask does not fit its parameter.
        InputError: the model refuses the inputs.
        PruningError: the model cannot be followed, or the smaller one computes something else.

    Source: Fang, Ma, Song, Mi, Wang 2023, "DepGraph: Towards Any Structural Pruning", for what goes together.
    """
    masked = _masked(model, masks)
    dependencies = follow(masked, example_inputs)
    wanted = _run(masked, example_inputs)
    readings = read_constants(copy.deepcopy(masked), example_inputs)
    families = trace(copy.deepcopy(masked), example_inputs)
    choice = Choice(dict(masked.named_modules()), families, readings, dependencies)
    choice.refuse_unknown()
    small = _cut(masked, choice)
    if failure := _failure(small, example_inputs, wanted):
        raise PruningError(_blame(masked, choice, example_inputs, wanted) or f"shrink: {failure}")
    return small


def _masked(model: nn.Module, masks: Mapping[str, Mask | Tensor] | None) -> nn.Module:
    """A copy of ``model`` with zeros where the masks have them."""
    expect_module(model)
    if not isinstance(masks, Mapping | None):
        raise MaskError(f"masks: expected masks by parameter name, got a {type(masks).__name__}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            kind = "a lazy one" if is_lazy(tensor) else "one on the meta device"
            raise LayerError(f"{name}: expected a tensor with data, got {kind}")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    checked = {name: _checked(name, mask, parameters) for name, mask in (masks or {}).items()}
    try:
        masked = copy.deepcopy(model)
    except Exception as error:
        raise LayerError(f"shrink: expected a model that can be copied, got {type(error).__name__}: {error}") from error
    copies = dict(masked.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in checked.items():
            copies[name].masked_fill_(~mask.keep, 0)
    return masked


def _checked(name: str, mask: Mask | Tensor, parameters: Mapping[str, nn.Parameter]) -> Mask:
    if name not in parameters:
        close = difflib.get_close_matches(str(name), parameters, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise LayerError(f"masks: expected names of parameters, got {name}{hint}")
    try:
        found = mask if isinstance(mask, Mask) else Mask(mask)
    except MaskError as error:
        raise MaskError(f"{name}: {error}") from error
    found.check(parameters[name], name)
    return found


def _cut(masked: nn.Module, choice: Choice) -> nn.Module:
    """A copy of ``masked`` without the channels that go, its parameters and modes otherwise the same."""
    small = copy.deepcopy(masked)
    sides = {side for elements in choice.members.values() for side, _ in elements}
    cuts: dict[Side, list[bool]] = {side: choice.going(side) for side in sorted(sides)}
    for (name, way), going in cuts.items():
        module = small.get_submodule(name)
        if way == "in" and any(going) and name in choice.readings.values and isinstance(module, (nn.Linear, _ConvNd)):
            values = choice.readings.values[name]
            fold(module, torch.tensor(going, device=values.device), values)
    cut(small, cuts, choice.outputs)
    return small


def _run(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    """The floating outputs of ``model`` in eval mode."""
    with evaluating(model):
        found = outputs_of(call_model(model, copy.deepcopy(example_inputs)))
    return [tensor.clone() for tensor in found if tensor.is_floating_point()]


def _failure(small: nn.Module, example_inputs: Any, wanted: Sequence[Tensor]) -> str:
    """What is wrong with the smaller model, in words; empty where its outputs are ``wanted`` up to rounding."""
    try:
        got = _run(small, example_inputs)
    except Exception as error:
        return f"expected a smaller model that runs, got {type(error).__name__}: {error}"
    for one, other in zip(wanted, got):
        if one.shape != other.shape:
            return f"expected an output of shape {tuple(one.shape)}, got {tuple(other.shape)}"
        slack = torch.finfo(one.dtype).eps ** 0.5 * float(one.abs().nan_to_num(0.0, 0.0).max()) if one.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=slack, equal_nan=True):
            change = float((one - other).abs().nan_to_num(torch.inf).max())
            return f"expected the outputs of the masked model, got a change of up to {change:.3g}"
    return ""


def _blame(masked: nn.Module, choice: Choice, example_inputs: Any, wanted: Sequence[Tensor]) -> str:
    """Name the first layer whose outputs cannot be taken away; empty where each layer's can be by itself."""
    gone = choice.gone
    names = [name for name in choice.layers if any(choice.going((name, "out"))) and name in choice.outputs]
    try:
        for name in names:
            choice.gone = gone & {choice.root.get(((name, "out"), i)) for i in range(len(choice.outputs[name].runs))}
            if failure := _failure(_cut(masked, choice), example_inputs, wanted):
                count = sum(choice.going((name, "out")))
                return f"{name}: {failure}; {count} of its outputs go through something that cannot be followed"
    finally:
        choice.gone = gone
    return ""
